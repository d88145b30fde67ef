/** Which tests there are and how they may share the machine. */
import { matchesGlob } from "node:path";

/**
 * Files of machines that run side by side, however many cores there are: the guests' clocks go on
 * while their CPU waits for a core.
 */
const machineFilesMost = 2;

/** Tests of one kind. */
export interface TestGroup {
  readonly name: string;
  readonly globs: readonly string[];
  readonly bootsMachines: boolean;
}

/** Every group, in the order in which they run. Every test file belongs to exactly one. */
export const testGroups: readonly TestGroup[] = [
  { name: "tidy", globs: ["tools/tidy/*.test.ts"], bootsMachines: false },
  {
    name: "unit",
    globs: [
      "src/**/*.test.ts",
      "tools/!(tidy)/**/*.test.ts",
      "scripts/**/*.test.ts",
      "bench/**/*.test.ts",
      "lab/**/*.test.ts",
      "evidence/**/*.test.ts",
    ],
    bootsMachines: false,
  },
  { name: "conformance", globs: ["test/conformance/**/*.test.ts"], bootsMachines: false },
  { name: "property", globs: ["test/property/**/*.test.ts"], bootsMachines: false },
  { name: "model", globs: ["test/model/**/*.test.ts"], bootsMachines: false },
  { name: "integration", globs: ["test/integration/**/*.test.ts"], bootsMachines: false },
  { name: "faults", globs: ["test/faults/**/*.test.ts"], bootsMachines: false },
  { name: "e2e", globs: ["test/e2e/**/*.test.ts"], bootsMachines: false },
  { name: "vm", globs: ["test/vm/**/*.test.ts"], bootsMachines: true },
];

/** The groups that a test file belongs to; the tidy tests see to it that it is one. */
export function groupsOf(path: string): readonly TestGroup[] {
  return testGroups.filter((group) => group.globs.some((glob) => matchesGlob(path, glob)));
}

/** One call of the test runner: files that may run side by side. */
export interface TestStage {
  readonly files: readonly string[];
  readonly concurrency: number;
}

/**
 * Plans the run of the named groups over `paths`: first all that may share the cores, then the
 * files that boot machines.
 *
 * @param filters Where there are any, only paths that contain one of them.
 */
export function planStages(request: {
  readonly paths: readonly string[];
  readonly groups: readonly string[];
  readonly filters: readonly string[];
  readonly cores: number;
}): readonly TestStage[] {
  const { paths, groups, filters, cores } = request;
  const wanted = paths.filter(
    (path) => filters.length === 0 || filters.some((filter) => path.includes(filter)),
  );
  function filesOf(bootsMachines: boolean): readonly string[] {
    return testGroups
      .filter((group) => group.bootsMachines === bootsMachines && groups.includes(group.name))
      .flatMap((group) => wanted.filter((path) => groupsOf(path).includes(group)));
  }
  return [
    // One more than there are cores: some wait for a server or for their time.
    { files: filesOf(false), concurrency: cores + 1 },
    { files: filesOf(true), concurrency: Math.min(cores, machineFilesMost) },
  ].filter((stage) => stage.files.length > 0);
}
