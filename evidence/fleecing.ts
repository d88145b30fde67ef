/**
 * Backs up a VM under writes without a snapshot tier, again and again. At each instant the machine
 * stands still for a moment and another program copies its disks; each recovery point is read back
 * from the vault and compared with the copies.
 */
import { openDiskImage } from "#drivers/disk/open-disk-image.ts";

import { runInGuest } from "../lab/guest.ts";
import { openFleeceWitness } from "../test/vm/fleece-witness.ts";
import { createProtectedVm, findDifference } from "../test/vm/protected-vm.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";

const wholeRounds = 20;
const longRounds = 200;
const dataDisks = ["vdb", "vdc"] as const;

/** `KLUIS_LONG=1` takes 200 rounds. */
export const evidence: Evidence = {
  name: "fleecing",
  claim:
    "a recovery point made without a snapshot tier equals the disks at its instant, whatever the guest writes meanwhile",
  bar: "every disk of every point equals an independent copy; all but the first point by dirty bitmaps",
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const usual = process.env["KLUIS_LONG"] === "1" ? longRounds : wholeRounds;
  const rounds = Number(context.options["rounds"] ?? usual);
  await using world = await createProtectedVm({ dataDisksMiB: [512, 512] });
  const { vm, vault } = world;
  const witness = await openFleeceWitness(vm, ["vda", ...dataDisks]);
  await witness.hypervisor.start(vm.vmId);
  for (const disk of dataDisks) await startWriter(world, disk);
  let equal = 0;
  let byBitmap = 0;
  let disks = 0;
  let changedBytes = 0;
  for (let round = 0; round < rounds; round++) {
    context.signal.throwIfAborted();
    const { manifest } = await world.backUpFleeced(witness.hypervisor);
    for (const disk of manifest.disks) {
      await using kept = vault.openDisk(disk);
      await using copy = await openDiskImage(witness.pathOf(disk.name), { format: "raw" });
      const differsAt = await findDifference(kept, copy);
      disks++;
      if (differsAt === undefined) equal++;
      else context.log(`round ${round}: disk ${disk.name} differs at byte ${differsAt}`);
      if (disk.tracking === "dirty-bitmap") byBitmap++;
      if (round > 0) changedBytes += disk.changedBytes;
    }
    context.log(`round ${round + 1} of ${rounds}`);
  }
  const later = disks - disks / rounds;
  return {
    figure: `${equal} of ${disks} disks in ${rounds} points equal; ${byBitmap} of ${later} by bitmaps; ${(changedBytes / 1024 / 1024).toFixed(1)} MiB changed`,
    holds: equal === disks && byBitmap === later && changedBytes > 0 && rounds >= wholeRounds,
    ...(rounds >= wholeRounds ? {} : { isPartial: true }),
  };
}

/** Small files that come, change and go, synced and not, and pages of a larger one. */
async function startWriter(
  { vm }: Awaited<ReturnType<typeof createProtectedVm>>,
  disk: string,
): Promise<void> {
  const folder = `/data/${disk}`;
  const loop = `n=1; while :; do n=$(((n * 1103515245 + 12345) % 2147483648))
    head -c 4096 /dev/urandom | dd of=${folder}/pages bs=4096 seek=$((n / 8 % 4096)) conv=notrunc 2>/dev/null
    head -c $((n % 50000)) /dev/urandom >${folder}/f$((n / 16 % 20))
    [ $((n / 32 % 3)) = 0 ] && sync; [ $((n / 64 % 7)) = 0 ] && rm -f ${folder}/f*
    done`;
  await runInGuest(vm.exec, `setsid sh -c '${loop}' </dev/null >/dev/null 2>&1 & sleep 0.2`);
}
