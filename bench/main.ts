/** Runs a benchmark: `npm run bench -- NAME [options]`; without a name, names them. */

type Run = (words: readonly string[], signal: AbortSignal) => void | Promise<void>;

/** Every benchmark, loaded when it is asked for. */
const benchmarks: Readonly<
  Record<string, { readonly what: string; readonly load: () => Promise<Run> }>
> = {
  peers: {
    what: "Kluis, restic, borg and qemu-img on the same disks, as whole processes",
    load: async () => (await import("./peers.ts")).runPeersBench,
  },
  engine: {
    what: "each stage of a backup and a restore against the limit of the machine",
    load: async () => (await import("./engine.ts")).runEngineBench,
  },
  vault: {
    what: "60 recovery points: restore, full verification, prune and collect, beside restic",
    load: async () => (await import("./vault.ts")).runVaultBench,
  },
  increments: {
    what: "60 increments of workload P: growth of the store, restore of first and newest point",
    load: async () => (await import("./increments.ts")).runIncrementsBench,
  },
  tebibyte: {
    what: "2,621 scattered pages on a disk of 1 TiB that is mapped all over: growth of the store",
    load: async () => (await import("./tebibyte.ts")).runTebibyteBench,
  },
  "disk-size": {
    what: "the same increment on a disk of 4 GiB and on a sparse one of 4 TiB",
    load: async () => (await import("./disk-size.ts")).runDiskSizeBench,
  },
  index: {
    what: "the block index at 20 million entries",
    load: async () => (await import("./index.ts")).runIndexBench,
  },
  "map-growth": {
    what: "what an increment adds, from the codecs of map and index alone",
    load: async () => (await import("./map-growth.ts")).runMapGrowthBench,
  },
  "rewrite-rule": {
    what: "rules that bound fragmentation, on a model of a disk",
    load: async () => (await import("./rewrite-rule.ts")).runRewriteRuleBench,
  },
  report: {
    what: "writes the newest figures into docs/benchmarks.md",
    load: async () => (await import("./report.ts")).runReport,
  },
};

async function main(words: readonly string[]): Promise<number> {
  const [name = "", ...rest] = words;
  const benchmark = benchmarks[name];
  if (benchmark === undefined) {
    console.error("Usage: npm run bench -- NAME [options]\n");
    for (const [known, { what }] of Object.entries(benchmarks)) {
      console.error(`  ${known.padEnd(14)} ${what}`);
    }
    return 2;
  }
  const interrupted = new AbortController();
  process.once("SIGINT", () => {
    interrupted.abort(new Error("interrupted"));
  });
  const run = await benchmark.load();
  await run(rest, interrupted.signal);
  return 0;
}

process.exitCode = await main(process.argv.slice(2));
