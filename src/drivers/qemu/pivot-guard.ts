/** The guard of a change-over in a QEMU of ours, through its second monitor; see change-over-guard.ts. */
import type { Clock } from "#base/clock.ts";
import { runChangeOverGuard, type ChangeOver } from "#drivers/layers/change-over-guard.ts";
import { QmpClient } from "#drivers/qmp/qmp-client.ts";
import { settlePivots } from "./settle-pivot.ts";

function planPivot(monitorPath: string, clock: Clock): ChangeOver {
  return {
    settle: async (record) => {
      await using qmp = await QmpClient.open(monitorPath, { clock });
      await settlePivots(qmp, record);
    },
  };
}

if (import.meta.main) await runChangeOverGuard(process.argv[2] ?? "", planPivot);
