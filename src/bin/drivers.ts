/** The drivers of this version, each loaded when a command asks for it. */
import { concatBytes } from "#base/bytes.ts";
import { systemClock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import type {
  CliDrivers,
  KeyFolders,
  SecretFiles,
  SecretKind,
  VmPlace,
  Vms,
} from "#cli/environment.ts";
import type { VmConfigurations } from "#ports/vm-configurations.ts";
import type { ManagedKeys } from "#ports/key-provider.ts";
import type { StoreHost } from "./open-store.ts";

/** Drivers for the paths and the environment of one call of the command. */
export function createDrivers(host: StoreHost): CliDrivers {
  return {
    openStore: async (place, wish) => {
      const { openStore } = await import("./open-store.ts");
      return await openStore(place, { ...host, ...wish });
    },
    openKeyProvider: async (key, folders) => {
      if (!key.startsWith("https:")) return await openFolderKeys(key, folders);
      const { openKeyVaults } = await import("#drivers/key-vault/key-vault-provider.ts");
      const { readAzureCredentials } = await import("#drivers/key-vault/credentials.ts");
      const deps = { clock: systemClock, random: systemRandom };
      return openKeyVaults(readAzureCredentials(host.variables), deps);
    },
    openManagedKeys: openFolderKeys,
    openMemory: async (folder) => {
      const { HostMemory } = await import("#drivers/host-memory/host-memory.ts");
      return new HostMemory(folder);
    },
    openImages: async () => {
      const { imageAccess } = await import("#drivers/disk/image-access.ts");
      return imageAccess;
    },
    openVms: async (place) => {
      if (place.connect !== undefined) return await openDomains(place.connect, place);
      const { openQemuHypervisor } = await import("#drivers/qemu/qemu-hypervisor.ts");
      const { createVmConfigurations } = await import("#drivers/qemu/vm-configurations.ts");
      const { files, folder, stateFolder } = place;
      const descriptionPaths = [...files, ...(folder === undefined ? [] : [folder])];
      const hypervisor = await openQemuHypervisor({
        stateDirectory: stateFolder,
        descriptionPaths,
      });
      return {
        hypervisor,
        configurations: createVmConfigurations(descriptionPaths),
        [Symbol.asyncDispose]: () => hypervisor[Symbol.asyncDispose](),
      };
    },
    openConfigurations: async (connect) => {
      if (connect !== undefined) return await openDomainConfigurations(connect);
      const { createVmConfigurations } = await import("#drivers/qemu/vm-configurations.ts");
      return createVmConfigurations([]);
    },
  };
}

async function openDomains(uri: string, place: VmPlace): Promise<Vms> {
  const { openLibvirtHypervisor } = await import("#drivers/libvirt/libvirt-hypervisor.ts");
  const { layerPool, stateFolder: stateDirectory } = place;
  const pool = layerPool === undefined ? {} : { layerPool };
  const hypervisor = await openLibvirtHypervisor({ uri, stateDirectory, ...pool });
  return {
    hypervisor,
    configurations: await openDomainConfigurations(uri),
    [Symbol.asyncDispose]: () => hypervisor[Symbol.asyncDispose](),
  };
}

async function openDomainConfigurations(uri: string): Promise<VmConfigurations> {
  const { createDomainConfigurations } = await import("#drivers/libvirt/domain-configurations.ts");
  return createDomainConfigurations(uri);
}

async function openFolderKeys(key: string, folders: KeyFolders): Promise<ManagedKeys> {
  const { openLocalKeys } = await import("#drivers/key-local/local-key-provider.ts");
  for (const scheme of ["local:", "platform:"] as const) {
    if (!key.startsWith(scheme)) continue;
    const folder = scheme === "local:" ? folders.local : folders.platform;
    return openLocalKeys(folder, { scheme, random: systemRandom });
  }
  throw new KluisError(
    "ArgumentInvalid",
    `Cannot use ${JSON.stringify(key.slice(0, 120))} as a key: it is neither https://…/keys/NAME nor local:NAME`,
  );
}

/** Longest secret on the standard input. */
const secretBytesMax = 4096;

/** The first line of the standard input; asks for it on a terminal, which does not show what is typed. */
async function readFirstLine(kind: SecretKind, signal: AbortSignal): Promise<Uint8Array> {
  signal.throwIfAborted();
  const { stdin } = process;
  let bytes: Uint8Array | undefined;
  if (stdin.isTTY) {
    const { readTyped } = await import("./read-typed.ts");
    const prompt = `${kind.replace(/ file$/, "")}: `;
    bytes = await readTyped(stdin, { prompt, bytesMax: secretBytesMax, signal });
  } else bytes = await readPiped(stdin, signal);
  if (bytes !== undefined) return bytes;
  throw new KluisError(
    "ArgumentInvalid",
    `Cannot use the ${kind} on standard input: it is too long`,
  );
}

/** All up to the end of the first line, or a little more; `undefined` where it is too long. */
async function readPiped(
  stdin: NodeJS.ReadStream,
  signal: AbortSignal,
): Promise<Uint8Array | undefined> {
  signal.addEventListener("abort", () => stdin.destroy(signal.reason as Error));
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of stdin) {
    chunks.push(chunk as Uint8Array);
    sizeBytes += (chunk as Uint8Array).byteLength;
    if (sizeBytes > secretBytesMax || (chunk as Uint8Array).includes(0x0a)) break;
  }
  return sizeBytes > secretBytesMax ? undefined : concatBytes(chunks);
}

/** Files with keys and passphrases; `signal` ends the wait for what is typed. */
export function createSecretFiles(signal: AbortSignal): SecretFiles {
  return {
    read: async (kind, path) => {
      if (path === "-") return await readFirstLine(kind, signal);
      const { readSecretFile } = await import("#drivers/secret-file/secret-file.ts");
      return await readSecretFile(kind, path);
    },
    create: async (kind, path, content) => {
      const { createSecretFile } = await import("#drivers/secret-file/secret-file.ts");
      await createSecretFile(kind, path, content);
    },
    replace: async (kind, path, content) => {
      const { replaceSecretFile } = await import("#drivers/secret-file/secret-file.ts");
      await replaceSecretFile(kind, path, content);
    },
  };
}
