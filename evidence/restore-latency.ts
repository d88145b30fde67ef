/** Restores from S3 over a link of 100 MB/s and 50 ms. */
import { open, rm } from "node:fs/promises";
import { join } from "node:path";

import { runTool, assertToolSucceeded } from "#drivers/process/run-tool.ts";
import { startLinkProxy } from "#testing/link-proxy.ts";
import { startRadosgw } from "#testing/radosgw.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";

import type { Evidence, EvidenceContext } from "../tools/evidence/evidence.ts";
import { repositoryRoot } from "../tools/tidy/source-files.ts";

const bytesPerSecond = 100_000_000;
const roundTripMs = 50;
const leastShare = 0.8;
const mib = 1024 * 1024;
const sizeBytes = 1536 * mib;
const timeoutMs = 10 * 60_000;

/** The disk is random, so that every byte of it crosses the link. */
export const evidence: Evidence = {
  name: "restore-latency",
  claim: "a restore from S3 over a link of 100 MB/s and 50 ms round trip uses the link",
  bar: "≥ 80 % of the link",
  run: async (context) => {
    await using gateway = await startRadosgw();
    await gateway.createBucket("far-away");
    const link = { targetPort: gateway.port, bytesPerSecond, roundTripMs };
    await using proxy = await startLinkProxy(link);
    const image = join(context.scratch, "disk.raw");
    await writeRandomImage(image);
    const near = storeAt(gateway.port);
    const { accessKeyId, secretAccessKey } = gateway.credentials;
    const env = {
      AWS_ACCESS_KEY_ID: accessKeyId,
      AWS_SECRET_ACCESS_KEY: secretAccessKey,
      HOME: context.scratch,
      KLUIS_STATE: join(context.scratch, "state"),
    };
    const kluis = (words: readonly string[]) => runKluis(words, { context, env });
    const key = ["--key-file", join(context.scratch, "key")];
    const recovery = ["--recovery-key-file", join(context.scratch, "recovery")];
    await kluis(["vault", "create", ...near, ...key, ...recovery]);
    context.log("backing up");
    await kluis(["image", "backup", image, ...near, ...key]);
    await rm(join(context.scratch, ".cache"), { recursive: true, force: true });
    context.log("restoring over the link");
    const target = join(context.scratch, "back.raw");
    const startMs = performance.now();
    await kluis(["image", "restore", image, target, ...storeAt(proxy.port), ...key]);
    const seconds = (performance.now() - startMs) / 1000;
    const compared = await runTool("cmp", [image, target], { timeoutMs });
    assertToolSucceeded("cmp", compared);
    const rate = sizeBytes / seconds;
    const share = rate / bytesPerSecond;
    const figure =
      `${(share * 100).toFixed(0)} % of the link: ${(sizeBytes / mib).toFixed(0)} MiB in ` +
      `${seconds.toFixed(1)} s, ${(rate / 1e6).toFixed(0)} MB/s, with start, opening and flush ` +
      "(user-space link: radosgw, proxy and restore share 2 cores)";
    return { figure, holds: share >= leastShare };
  },
};

function storeAt(port: number): readonly string[] {
  return ["--store", `s3://far-away/vault?endpoint=http://127.0.0.1:${port}`];
}

async function runKluis(
  words: readonly string[],
  { context, env }: { context: EvidenceContext; env: Readonly<Record<string, string>> },
): Promise<void> {
  const launcher = join(repositoryRoot, "bin/kluis.mjs");
  const options = { timeoutMs, signal: context.signal, cwd: context.scratch, env };
  const result = await runTool(process.execPath, [launcher, ...words], options);
  assertToolSucceeded(`kluis ${words.slice(0, 2).join(" ")}`, result);
}

async function writeRandomImage(path: string): Promise<void> {
  const random = createSeededRandom("restore over a link");
  await using file = await open(path, "wx");
  for (let at = 0; at < sizeBytes; at += 64 * mib) await file.writeFile(random.bytes(64 * mib));
}
