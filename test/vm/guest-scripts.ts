/** Puts pre and post scripts into a lab guest. */
import type { GuestExec } from "../../lab/guest-exec.ts";
import { runInGuest } from "../../lab/guest.ts";

/** Scripts, as shell that puts them there, and members of the configuration that are not usual. */
export interface ScriptsPlan {
  readonly pre: string;
  readonly post: string;
  readonly config: Readonly<Record<string, unknown>>;
}

/** Shell that puts a script into the guest which leaves its name in a trace and ends with a code. */
export function scriptOf(name: "pre" | "post", exitCode: number | string, work = ":"): string {
  const path = `/etc/azure/${name}.sh`;
  return `cat >${path} <<'END'
echo ${name} >>/run/trace
${work}
exit ${String(exitCode)}
END
chmod 700 ${path}; chown 0 ${path}`;
}

/** Makes the guest's configuration anew, with an empty trace. */
export async function configureScripts(exec: GuestExec, plan: ScriptsPlan): Promise<void> {
  const config = {
    pluginName: "ScriptRunner",
    preScriptLocation: "/etc/azure/pre.sh",
    postScriptLocation: "/etc/azure/post.sh",
    preScriptParams: ["", ""],
    postScriptParams: ["", ""],
    preScriptNoOfRetries: 0,
    postScriptNoOfRetries: 0,
    timeoutInSeconds: 30,
    continueBackupOnFailure: true,
    fsFreezeEnabled: true,
    ...plan.config,
  };
  const script = `rm -rf /etc/azure; mkdir -p /etc/azure; : >/run/trace
${plan.pre}
${plan.post}
printf '%s' "$1" >/etc/azure/VMSnapshotScriptPluginConfig.json
chmod 600 /etc/azure/VMSnapshotScriptPluginConfig.json`;
  await runInGuest(exec, script, [JSON.stringify(config)]);
}

/** Which scripts ran, in order, with blanks between. */
export async function readTrace(exec: GuestExec): Promise<string> {
  return (await runInGuest(exec, "cat /run/trace")).trim().replaceAll("\n", " ");
}
