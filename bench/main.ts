/** Runs a benchmark: `npm run bench -- NAME [options]`; without a name, names them. */

type Run = (words: readonly string[], signal: AbortSignal) => Promise<void>;

/** Every benchmark, loaded when it is asked for. */
const benchmarks: Readonly<
  Record<string, { readonly what: string; readonly load: () => Promise<Run> }>
> = {
  peers: {
    what: "Kluis, restic, borg and qemu-img on the same disks, as whole processes",
    load: async () => (await import("./peers.ts")).runPeersBench,
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
