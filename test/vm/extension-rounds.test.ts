/**
 * Goal: once a pre script was run its post script runs too, once, though supervisors, those started in
 * their place, and whoever orders them are killed; and never does pre begin after it. Method: the
 * extension's program in a real guest, called as Kluis calls it; its processes are killed and
 * stopped, or made to die and to wait by a word put into a copy; the scripts leave a trace in memory.
 */
import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";

import { runInGuest } from "../../lab/guest.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";

const token = "0123456789ab";
/** How often a wait looks; 0.1 s lies between two looks. */
const looksMost = 300;

/**
 * What the cases are written with: `begin PRE` runs a round with that pre script and the usual post,
 * `supervisor` prints its process, `until_traced WORDS` waits for a trace, `until_ended STAT…` until of
 * these processes no supervisor and no runner of a script lives. Waits are long: a busy machine is no fault.
 */
const words = `
program=/var/lib/kluis/VMSnapshotLinux/extension.sh
token=${token}
trace() { echo "/bin/sh -c 'echo $1 >>/run/trace'"; }
begin() { sh $program pre $token 6000 6000 1 "$1" 6000 1 "$(trace post)"; }
supervisor() { cat /run/kluis/$token/supervisor.1; }
kill_supervisor() {
  killed=$(supervisor)
  kill -KILL "$killed" || exit 1
  until_ended "/proc/$killed/stat"
}
until_traced() {
  tries=0
  until [ "$(tr '\\n' ' ' </run/trace)" = "$* " ]; do
    [ $tries -lt ${looksMost} ] || { echo "the trace is: $(cat /run/trace)"; exit 1; }
    tries=$((tries + 1))
    sleep 0.1
  done
}
until_ended() {
  tries=0
  while grep -qsE '\\(k[rs]-[0-9a-f]{12}\\) [^ZX]' "$@"; do
    [ $tries -lt ${looksMost} ] || { echo "supervisors or scripts live on"; exit 1; }
    tries=$((tries + 1))
    sleep 0.1
  done
}
`;

let vm: DrivenVm;

before(async () => {
  vm = await createDrivenVm();
  await vm.hypervisor.start(vm.vmId);
});

after(async () => {
  await vm[Symbol.asyncDispose]();
});

async function play(script: string): Promise<void> {
  await runInGuest(vm.exec, `${words}${script}`);
}

beforeEach(async () => {
  // A round ends a little after its trace: a supervisor that lost its files would wait for its script's
  // end until its time is over, and the next round for the supervisor.
  await play("until_ended /proc/[0-9]*/stat; : >/run/trace; rm -rf /run/kluis");
  await vm.hypervisor.manageExtension(vm.vmId, "install");
});

test("extension rounds: a supervisor that was killed is replaced, also where the first replacement dies", async () => {
  await play(`begin "$(trace pre)"; kill_supervisor
    sed 's/^supervise_post() {/supervise_post() { exit/' $program >/tmp/dying.sh
    timeout 1 sh /tmp/dying.sh order $token
    sh $program order $token
    until_traced pre post`);
});

test("extension rounds: who orders does not take the shell of a script for its supervisor", async () => {
  await play(`begin "/bin/sh -c 'echo \\$\\$ >/run/pre-pid; echo pre >>/run/trace; sleep 60'" >/dev/null 2>&1 &
    until_traced pre
    kill_supervisor
    sh $program order $token
    until_traced pre post
    ! grep -qs ') [^ZX]' "/proc/$(cat /run/pre-pid)/stat"`);
});

test("extension rounds: who lost the answer to pre is told it again, also while pre runs, and pre runs once", async () => {
  await play(`begin "/bin/sh -c 'echo pre >>/run/trace; sleep 1'" >/tmp/told &
    until_traced pre
    sh $program pre-result $token >/tmp/told-again && wait
    grep -q '^succeeded 0 1 ' /tmp/told && cmp /tmp/told /tmp/told-again || exit 1
    sh $program pre-result $token | cmp - /tmp/told || exit 1
    sh $program post $token >/dev/null && until_traced pre post || exit 1
    ! sh $program pre-result ba9876543210`);
});

test("extension rounds: however many order post at once, it runs once", async () => {
  await play(`begin "$(trace pre)"; kill_supervisor
    for each in 1 2 3 4 5 6; do sh $program order $token & done
    wait
    until_traced pre post
    sleep 1
    until_traced pre post`);
});

test("extension rounds: a note does not forget a round whose post has not run, it orders it", async () => {
  await play(`begin "$(trace pre)"; kill_supervisor
    sh $program note status=crash error=
    until_traced pre post
    sh $program status | grep -qx status=crash`);
});

test("extension rounds: the extension is not taken out of a guest before post has run", async () => {
  await play(`begin "$(trace pre)"; kill_supervisor`);
  const removed = await vm.hypervisor.manageExtension(vm.vmId, "remove");
  assert.deepEqual(removed, { isInstalled: false, changes: [] });
  await play(`until_traced pre post; [ ! -e /run/kluis ] && [ ! -e /var/lib/kluis ]`);
});

test("extension rounds: the extension is taken out though the supervisor was stopped", async () => {
  await play(`begin "$(trace pre)"; kill -STOP "$(supervisor)"`);
  await vm.hypervisor.manageExtension(vm.vmId, "remove");
  await play(`until_traced pre post; [ ! -e /run/kluis ] && [ ! -e /var/lib/kluis ]`);
});

test("extension rounds: a supervisor goes on though the sleep that it waits for was stopped", async () => {
  await play(`begin "$(trace pre)"
    until grep -qsE "\\((sleep|ks-$token)\\) T $(supervisor) " /proc/[0-9]*/stat; do
      for stat in $(grep -slE "\\((sleep|ks-$token)\\) [^ZX] $(supervisor) " /proc/[0-9]*/stat); do
        stat=\${stat#/proc/}
        kill -STOP "\${stat%/stat}"
      done
    done
    timeout 30 sh $program post $token
    until_traced pre post`);
});

test("extension rounds: the next round has the post of a lost one run before its own pre", async () => {
  await play(`begin "$(trace pre)"; kill_supervisor
    token=ba9876543210
    begin "$(trace pre2)"
    until_traced pre post pre2
    sh $program post $token
    until_traced pre post pre2 post`);
});

test("extension rounds: a pre script that had not begun when its time was over never begins", async () => {
  await play(`sed "s/setsid sh -c '/&sleep 3; /" $program >/tmp/slow.sh
    sh /tmp/slow.sh pre $token 6000 100 1 "$(trace pre)" 6000 1 "$(trace post)"
    sh $program post $token
    sleep 4
    until_traced post`);
});
