/** Where the recovery points of a VM are: snapshots on this host, a vault, or both. */
import { KluisError } from "#base/kluis-error.ts";
import type { Vm } from "#ports/hypervisor.ts";
import { toVmItemId } from "#protect/backup-vm.ts";
import { listTieredPoints, type TieredListing } from "#protect/vm-points.ts";
import type { Vault } from "#vault/vault.ts";
import type { CommandInput } from "#cli/command.ts";
import type { CliEnvironment, Vms } from "#cli/environment.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import { chooseVm, openVmsOf } from "#cli/open-vms.ts";

/** The sources that a command line names, open, and what they hold. */
export interface OpenTiers extends AsyncDisposable {
  readonly itemId: string;
  readonly vault?: Vault;
  readonly listing: TieredListing;
}

/**
 * Opens what `--vm`, `--vms` and `--store` name, one of them at least, and lists the points of the VM.
 * Errors: ArgumentInvalid, VmNotFound, those of both sources.
 */
export async function openTiers(
  input: CommandInput,
  environment: CliEnvironment,
): Promise<OpenTiers> {
  const { signal } = environment;
  const { hasVms, hasStore } = readSources(input);
  await using owned = new AsyncDisposableStack();
  const vms = hasVms ? owned.use(await openVmsOf(input, environment)) : undefined;
  const vm = vms === undefined ? undefined : await findVm(input, vms, { hasStore, signal });
  const session = hasStore
    ? owned.use(await openVaultSession(input, environment, { intent: "read" }))
    : undefined;
  const vault = session?.vault;
  const name = vm?.id ?? input.requiredArgument(0, "vm");
  const itemId = input.text("item") ?? (await toItemId(name, vault, signal));
  const listing = await listTieredPoints({
    itemId,
    signal,
    ...(vms && vm && { vm: { hypervisor: vms.hypervisor, vmId: vm.id } }),
    ...(vault && { vault }),
  });
  const kept = owned.move();
  return {
    itemId,
    listing,
    ...(vault && { vault }),
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

function readSources(input: CommandInput): {
  readonly hasVms: boolean;
  readonly hasStore: boolean;
} {
  const isNamed = input.text("vms") !== undefined || input.text("connect") !== undefined;
  const hasVms = isNamed || input.texts("vm").length > 0;
  const hasStore = input.text("store") !== undefined || input.text("from") === "secondary";
  if (hasVms || hasStore) return { hasVms, hasStore };
  throw new KluisError(
    "ArgumentInvalid",
    "Cannot find recovery points: none of --store, --vm and --vms is given",
  );
}

/** A VM that is not here any more may still be in the vault. */
async function findVm(
  input: CommandInput,
  { hypervisor }: Vms,
  options: { readonly hasStore: boolean; readonly signal: AbortSignal },
): Promise<Vm | undefined> {
  const id = input.argument(0);
  if (id === undefined || !options.hasStore) {
    return await chooseVm(input, hypervisor, options.signal);
  }
  return (await hypervisor.list(options.signal)).find((vm) => vm.id === id);
}

/** The words of a user name a VM, else a protected item. */
async function toItemId(
  name: string,
  vault: Vault | undefined,
  signal: AbortSignal,
): Promise<string> {
  const asVm = toVmItemId(name);
  if (vault === undefined || (await vault.listPoints(asVm, signal)).length > 0) return asVm;
  return (await vault.listPoints(name, signal)).length > 0 ? name : asVm;
}
