/** The drivers of this version, each loaded when a command asks for it. */
import type { CliDrivers, SecretFiles } from "#cli/environment.ts";

/** Drivers for paths that are relative to `workingFolder`. */
export function createDrivers(workingFolder: string): CliDrivers {
  return {
    openStore: async (place, { create }) => {
      const { parseStoreLocation } = await import("#drivers/store/store-location.ts");
      const { openFileStore } = await import("#drivers/store/file-store.ts");
      const { path } = parseStoreLocation(place, workingFolder);
      return await openFileStore(path, { create });
    },
    openImages: async () => {
      const { imageAccess } = await import("#drivers/disk/image-access.ts");
      return imageAccess;
    },
    openVms: async (place) => {
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
    openConfigurations: async () => {
      const { createVmConfigurations } = await import("#drivers/qemu/vm-configurations.ts");
      return createVmConfigurations([]);
    },
  };
}

/** Files with keys and passphrases. */
export function createSecretFiles(): SecretFiles {
  return {
    read: async (kind, path) => {
      const { readSecretFile } = await import("#drivers/secret-file/secret-file.ts");
      return await readSecretFile(kind, path);
    },
    create: async (kind, path, content) => {
      const { createSecretFile } = await import("#drivers/secret-file/secret-file.ts");
      await createSecretFile(kind, path, content);
    },
  };
}
