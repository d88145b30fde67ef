/** The layers of ARCHITECTURE.md as data. A test keeps both equal. */

/** One folder of src. `mayImport` names folders; a folder may always import itself. */
export interface Layer {
  readonly layer: number;
  readonly folder: string;
  readonly mayImport: readonly string[] | "everything";
}

/** Every folder of src, lowest layer first. */
export const layers: readonly Layer[] = [
  { layer: 0, folder: "base", mayImport: [] },
  { layer: 1, folder: "formats", mayImport: ["base"] },
  { layer: 1, folder: "contract", mayImport: ["base"] },
  { layer: 2, folder: "ports", mayImport: ["base"] },
  { layer: 2, folder: "drivers", mayImport: ["base", "formats", "ports"] },
  { layer: 3, folder: "vault", mayImport: ["base", "formats", "ports"] },
  { layer: 4, folder: "protect", mayImport: ["base", "contract", "ports", "vault"] },
  { layer: 5, folder: "cli", mayImport: ["base", "contract", "ports", "vault", "protect"] },
  { layer: 6, folder: "bin", mayImport: "everything" },
];

/** The test kit: may import everything, is imported by itself, tests and what is outside src. */
export const testingFolder = "testing";

/** Folders below drivers that every driver may import; other drivers do not see each other. */
export const sharedDrivers: readonly string[] = [
  "disk",
  "fleecing",
  "guest",
  "layers",
  "nbd",
  "process",
  "qmp",
];

/** Folders whose subfolders are private: others import their top-level files only. */
export const closedFolders: readonly RegExp[] = [/^src\/vault\//, /^src\/drivers\/[^/]+\//];

/** Where each runtime dependency may be imported. */
export const packageDoors: Readonly<Record<string, readonly string[]>> = {
  "@napi-rs/blake-hash": ["src/formats/", "src/vault/"],
  "@aws-sdk/client-s3": ["src/drivers/store/", "src/testing/"],
  "@azure/storage-blob": ["src/drivers/store/", "src/testing/"],
  commander: ["src/cli/", "src/bin/"],
};
