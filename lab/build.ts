/** `node lab/build.ts mini`: builds the image of a lab guest and prints its folder. */
import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { ensureFullImage } from "./full-guest.ts";
import type { GuestKind } from "./guest-kind.ts";
import { ensureMiniImage } from "./mini-guest.ts";
import { ensurePostgresImage } from "./postgres-guest.ts";

const builders: Readonly<Record<GuestKind, () => Promise<string>>> = {
  mini: ensureMiniImage,
  full: ensureFullImage,
  postgres: ensurePostgresImage,
};

/**
 * Builds the image of `kind` where the cache has none and returns its folder, which holds `vmlinuz`,
 * `initrd` and `root.raw` and must not be written. Errors: ToolMissing names the package to install.
 */
export async function ensureImage(kind: GuestKind): Promise<string> {
  return builders[kind]();
}

function isGuestKind(text: string): text is GuestKind {
  return Object.hasOwn(builders, text);
}

async function main(kind: string | undefined): Promise<void> {
  if (kind === undefined || !isGuestKind(kind)) {
    console.error(`usage: node lab/build.ts ${Object.keys(builders).join("|")}`);
    process.exitCode = 2;
    return;
  }
  const startMs = systemClock.monotonicMs();
  try {
    console.log(await ensureImage(kind));
    console.error(`ready in ${((systemClock.monotonicMs() - startMs) / 1000).toFixed(1)} s`);
  } catch (error) {
    if (!isKluisError(error)) throw error;
    console.error(error.message);
    process.exitCode = error.entry.exit;
  }
}

if (import.meta.main) await main(process.argv[2]);
