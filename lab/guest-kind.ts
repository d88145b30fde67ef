/** The kinds of lab guests and the machines they run on. */
import { join } from "node:path";
import type { DescribedDisk, VmDescription } from "#drivers/qemu/description.ts";

/**
 * `mini`: busybox, boots in seconds. `full`: Debian with systemd, for long tests. `postgres`: the mini
 * guest with PostgreSQL.
 */
export type GuestKind = "mini" | "full" | "postgres";

/** Kernel options of all guests: console on the serial line, no needless waits under emulation. */
const commonAppend =
  "console=ttyS0 quiet root=/dev/vda rw panic=-1 tsc=reliable mitigations=off no_timer_check " +
  "cryptomgr.notests";

const machines: Readonly<Record<GuestKind, { memoryMiB: number; cpus: number; append: string }>> = {
  mini: { memoryMiB: 256, cpus: 1, append: commonAppend },
  postgres: { memoryMiB: 384, cpus: 1, append: commonAppend },
  full: { memoryMiB: 512, cpus: 2, append: `${commonAppend} systemd.show_status=0` },
};

/** What differs from one VM of a kind to the next. */
export interface GuestPlace {
  /** Folder of the image: `vmlinuz` and `initrd` are used from it. */
  readonly image: string;
  readonly name: string;
  /** The root disk `vda` first. */
  readonly disks: readonly DescribedDisk[];
  /** QEMU's `-incoming` for the first start. */
  readonly incoming?: string;
}

/** The description of a VM of `kind`; every VM of a kind with as many disks has the same devices. */
export function describeGuest(kind: GuestKind, place: GuestPlace): VmDescription {
  return {
    name: place.name,
    ...machines[kind],
    kernel: join(place.image, "vmlinuz"),
    initrd: join(place.image, "initrd"),
    disks: place.disks,
    ...(place.incoming === undefined ? {} : { incoming: place.incoming }),
    ackChannel: true,
    extraArguments: [],
  };
}
