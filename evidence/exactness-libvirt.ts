/** Random rounds of changes, faults and backups of a VM under the libvirt driver. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createExactnessBar } from "../tools/evidence/exactness-bar.ts";

/** What is compared with what: test/vm/exactness/run-rounds.ts. */
export const evidence: Evidence = createExactnessBar("exactness-libvirt", "libvirt");
