/** Which tests there are and how they may share the machine. */
import { matchesGlob } from "node:path";

/** Tests of one kind. `alone`: one file at a time, because each boots machines or loads all cores. */
export interface TestGroup {
  readonly name: string;
  readonly globs: readonly string[];
  readonly alone: boolean;
}

/** Every group, in the order in which they run. Every test file belongs to exactly one. */
export const testGroups: readonly TestGroup[] = [
  { name: "tidy", globs: ["tools/tidy/*.test.ts"], alone: false },
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
    alone: false,
  },
  { name: "conformance", globs: ["test/conformance/**/*.test.ts"], alone: false },
  { name: "property", globs: ["test/property/**/*.test.ts"], alone: false },
  { name: "model", globs: ["test/model/**/*.test.ts"], alone: false },
  { name: "integration", globs: ["test/integration/**/*.test.ts"], alone: false },
  { name: "faults", globs: ["test/faults/**/*.test.ts"], alone: false },
  { name: "vm", globs: ["test/vm/**/*.test.ts"], alone: true },
  { name: "e2e", globs: ["test/e2e/**/*.test.ts"], alone: true },
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
 * files that want the machine to themselves.
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
  function filesOf(alone: boolean): readonly string[] {
    return testGroups
      .filter((group) => group.alone === alone && groups.includes(group.name))
      .flatMap((group) => wanted.filter((path) => groupsOf(path).includes(group)));
  }
  return [
    { files: filesOf(false), concurrency: Math.max(1, cores) },
    { files: filesOf(true), concurrency: 1 },
  ].filter((stage) => stage.files.length > 0);
}
