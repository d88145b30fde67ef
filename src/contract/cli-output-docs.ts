/** What every member of the JSON output means; docs/reference/output.md is made from this. */
import type {
  BackupOutput,
  BadObjectOutput,
  CollectionOutput,
  CopyOutput,
  DamagedRangeOutput,
  DeletedOutput,
  ErrorOutput,
  HealedObjectOutput,
  HeldBackPointOutput,
  HostKeyChangedOutput,
  HostKeyOutput,
  HostKeysOutput,
  HostKeyVersionOutput,
  KeyAddedOutput,
  KeyOutput,
  KeyProofOutput,
  KeyRemovedOutput,
  KeysOutput,
  LagOutput,
  KeysRotatedOutput,
  PointDiskOutput,
  PointOutput,
  PointsOutput,
  PrunedPointOutput,
  PruneOutput,
  ProvenEpochOutput,
  RestoredDiskOutput,
  RestoreOutput,
  RewrappedKeyOutput,
  SecondaryPruningOutput,
  UnreadablePointOutput,
  VaultCreatedOutput,
  VaultHealedOutput,
  VaultLagOutput,
  VaultAcceptedOutput,
  VaultPromotedOutput,
  VerifiedDiskOutput,
  VerifiedPointOutput,
  RepairOutput,
  ScrubOutput,
  StoreVerifyOutput,
  VerifyOutput,
  VmChangedOutput,
  VmDiskOutput,
  VmExtensionOutput,
  VmOutput,
  VmsOutput,
} from "#contract/cli-output.ts";
import { jobDocuments, jobParts } from "#contract/job-output-docs.ts";
import { type Members, type ShapeDoc, toDocument, toPart } from "#contract/shape-doc.ts";

const error: Members<ErrorOutput> = {
  code: ["text", "the code of docs/reference/errors.md"],
  message: ["text", "what could not be done and why; for people, may change"],
  action: ["text", "what to do"],
  retry: ["text", "`never`, `backoff` or `after-change`"],
  exit: ["number", "the exit code of the process"],
  details: ["object", "numbers and names that say where, by name"],
};

const vaultCreated: Members<VaultCreatedOutput> = {
  store: ["text", "where the vault is"],
  vaultId: ["text", "32 hexadecimal digits"],
  keys: ["list of text", "types of its key slots"],
  recoveryKey: ["text?", "the recovery key, told this once; absent where a file has it"],
  recoveryKeyFile: ["text?", "the file that has it"],
};

const keyAdded: Members<KeyAddedOutput> = {
  name: ["text", "the object of the new slot"],
  type: ["text", "its type, as in key"],
  recoveryKey: ["text?", "a new recovery key, told this once"],
  recoveryKeyFile: ["text?", "the file that has it"],
};

const collection: Members<CollectionOutput> = {
  end: [
    "text",
    "`done`, `planned` (a dry run), `nothing-to-do`, or why nothing was removed: `gave-up`, `fenced`",
  ],
  vaultBytes: ["number", "bytes of all packs that were considered, before"],
  packs: ["number", "packs that go"],
  garbageBytes: ["number", "bytes of packs that go and hold nothing needed"],
  repackedBytes: ["number", "bytes of packs that go and from which something is copied first"],
  copiedBytes: ["number", "bytes of the packs into which that was copied"],
  references: ["number", "references of maps that were followed"],
  nodes: ["number", "map nodes that were read"],
  durationMs: ["number", "milliseconds"],
};

const deleted: Members<DeletedOutput> = {
  itemId: ["text", "the protected item"],
  id: ["text", "the recovery point that was deleted"],
  takenAt: ["time", "the instant that it held"],
};

const prune: Members<PruneOutput> = {
  isDryRun: ["boolean", "whether nothing was deleted"],
  points: ["list of pruned point", "by item, newest first"],
  collection: ["collection?", "what was freed; only with `--collect`"],
};

const prunedPoint: Members<PrunedPointOutput> = {
  itemId: ["text", "the protected item"],
  id: ["text", "the recovery point"],
  takenAt: ["time", "the instant in its id"],
  keptBy: ["list of text", "rules that keep it; empty where it is deleted"],
};

const keys: Members<KeysOutput> = {
  vaultId: ["text", "32 hexadecimal digits"],
  keys: ["list of key", "slots of this vault"],
  damaged: ["list of text", "slots and key records that cannot be read"],
  newer: ["list of text", "slots that a newer version wrote"],
  record: [
    "number",
    "the newest key record: how often keys were changed; 0 where none can be read",
  ],
  epoch: ["number", "the key epoch under which new data is sealed; 0 as above"],
  missing: ["list of text", "valid slots, and key records, that are not there"],
};

const keyRemoved: Members<KeyRemovedOutput> = {
  names: ["list of text", "the objects of the slots that are gone"],
  record: ["number", "the key record that made it count"],
  epoch: ["number", "the key epoch under which new data is sealed"],
};

const keysRotated: Members<KeysRotatedOutput> = {
  record: ["number", "the key record that made it count"],
  epoch: ["number", "the key epoch under which new data is sealed"],
  rewrapped: ["list of rewrapped key", "slots that a newer version of their key wraps now"],
};

const rewrappedKey: Members<RewrappedKeyOutput> = {
  oldName: ["text", "the object of the slot that is gone"],
  newName: ["text", "the object that took its place"],
  type: ["text", "`customer-key` or `platform-key`"],
  key: ["text", "the version that wraps it"],
};

const keyProof: Members<KeyProofOutput> = {
  vaultId: ["text", "32 hexadecimal digits"],
  slot: ["text", "the object of the slot that opened"],
  type: ["text", "its type, as in key"],
  record: ["number", "the newest key record; 0 where none can be read"],
  epochs: ["list of proven epoch", "every key epoch that this key opens"],
  failed: ["list of text", "objects that are damaged, missing or not decrypted; none is the proof"],
  objectsRead: ["number", "objects that were looked at"],
  survivesHost: ["boolean", "whether this key does not lie on the host that makes the backups"],
};

const provenEpoch: Members<ProvenEpochOutput> = {
  epoch: ["number", "from 1 on"],
  object: [
    "text?",
    "an object that was sealed under it and has been decrypted; absent: none found",
  ],
};

const hostKeys: Members<HostKeysOutput> = { keys: ["list of host key", "in the order of names"] };

const hostKey: Members<HostKeyOutput> = {
  key: ["text", "its name"],
  isDeleted: ["boolean", "whether it was deleted and can be recovered"],
  versions: ["list of host key version", "oldest first; empty where it was deleted"],
};

const hostKeyVersion: Members<HostKeyVersionOutput> = {
  version: ["text", "16 hexadecimal digits"],
  isEnabled: ["boolean", "whether it wraps and unwraps"],
};

const hostKeyChanged: Members<HostKeyChangedOutput> = {
  key: ["text", "the key, with its version where one was made"],
  change: ["text", "`create`, `rotate`, `disable`, `enable`, `delete` or `recover`"],
};

const key: Members<KeyOutput> = {
  name: ["text", "the object of the slot"],
  type: ["text", "`passphrase`, `recovery`, `key-file`, `customer-key` or `platform-key`"],
  isValid: [
    "boolean",
    "whether it opens the vault; if not, it is left from a change that was cut off",
  ],
  survivesHost: ["boolean", "whether the key does not lie on the host that makes the backups"],
  key: ["text?", "the version of the provider's key that wraps it"],
  follows: ["boolean?", "whether a rotation wraps it with a newer version"],
};

const backup: Members<BackupOutput> = {
  point: ["point", "the recovery point that was committed"],
  addedObjects: ["number", "objects that were put"],
  addedBytes: ["number", "by how much the store grew"],
  durationMs: ["number", "from the start of the work to the commit"],
  warnings: [
    "list of text",
    "what went wrong without loss: after the commit, or in the store before",
  ],
  job: ["job?", "both tasks, for a VM"],
};

const point: Members<PointOutput> = {
  id: ["text", "id of the recovery point"],
  itemId: ["text", "id of the protected item"],
  itemName: ["text", "its name, for people"],
  takenAt: ["time", "the instant that the point holds"],
  committedAt: ["time", "when it was committed"],
  consistency: ["text", "`application`, `file-system` or `crash`"],
  consistencyReason: ["text?", "why it is not better"],
  consistencyEvidence: ["text?", "JSON: what it rests on (docs/design/extension.md)"],
  frozenMs: ["number?", "how long the guest was frozen"],
  basePointId: ["text?", "the point that it is an increment of; it needs none to be restored"],
  timing: ["timing?", "where the time went; absent for points of earlier versions"],
  slowCauses: ["list of slow cause", "why it took longer than a usual increment; empty for one"],
  disks: ["list of point disk", "its disks"],
};

const pointDisk: Members<PointDiskOutput> = {
  name: ["text", "name within the item; `disk` for an image"],
  sizeBytes: ["number", "what a VM sees"],
  mappedBytes: ["number", "of it not zeros, in windows of 256 KiB"],
  examinedBytes: ["number", "read from the disk to find and send the changes"],
  changedBytes: ["number", "different from the base point; in a full read, not zeros"],
  newBytes: ["number", "of it not in the vault before"],
  storedBytes: ["number", "what that takes in the vault, compressed and encrypted"],
  tracking: ["text", "`full`, `snapshot-difference`, `dirty-bitmap` or `checksum`"],
  trackingReason: ["text?", "why no better method was used"],
  healedBytes: ["number?", "stored again because the vault had lost them"],
  namedBytes: ["number?", "that the record of changes, or the comparison, names; of an increment"],
  namedRanges: ["number?", "ranges in which they lie: many small ones are slow"],
};

const points: Members<PointsOutput> = {
  points: ["list of point", "by item, oldest first"],
  unreadable: ["list of unreadable point", "points whose manifests cannot be read"],
};

const unreadable: Members<UnreadablePointOutput> = {
  id: ["text", "id of the recovery point"],
  item: ["text", "keyed name of its item in the store"],
  code: ["text", "code of the error"],
  message: ["text", "what is wrong"],
};

const restore: Members<RestoreOutput> = {
  point: ["point or tiered point", "what was restored: of a snapshot a tiered point"],
  tier: ["text", "`snapshot` or `vault`: where the content came from"],
  disks: ["list of restored disk", "all complete and durable"],
  durationMs: ["number", "of all disks together"],
  configuration: ["text?", "path of the new description file, for a VM"],
};

const restoredDisk: Members<RestoredDiskOutput> = {
  name: ["text", "name of the disk"],
  target: ["text", "path or URI"],
  format: ["text", "`raw` or `qcow2`"],
  sizeBytes: ["number", "of the disk"],
  dataBytes: ["number", "written as data"],
  zeroBytes: ["number", "left sparse or written as zeros"],
  durationMs: ["number", "of this disk"],
};

const verify: Members<VerifyOutput> = {
  depth: ["text", "`structure`, `objects` or `full`"],
  verdict: ["verdict", "the worst of everything; the exit code is 0, 14 or 12"],
  pointsVerdict: ["verdict", "the worst of all recovery points"],
  objectsUnnamed: ["number", "objects that the inventory does not name (yet)"],
  objectsChecked: ["number", "objects that were read"],
  bytesRead: ["number", "of the store"],
  blocksChecked: ["number", "blocks and map nodes whose ids were computed"],
  badObjects: ["list of bad object", "at most 1,000"],
  badObjectsOmitted: ["number", "how many more"],
  points: ["list of verified point", "every point that was looked at"],
  durationMs: ["number", "of the whole check"],
};

const repair: Members<RepairOutput> = {
  isDryRun: ["true or false", "whether nothing was changed"],
  packsIndexed: ["number", "packs that an index segment names again"],
  packsUnusable: ["number", "packs whose own table cannot be read"],
  segmentsDropped: ["number", "damaged index segments that were replaced"],
  pointsKept: ["number", "recovery points whose damaged deletion mark was dropped"],
  lockedObjects: ["list of text", "damaged objects that stay until their locks end"],
  inventoryAdded: ["number", "objects that the inventory did not name"],
  inventoryRemoved: ["number", "missing objects that are no longer expected"],
  findingsLifted: ["number", "objects found damaged earlier that are whole"],
  verify: ["verify", "every point as it is after the repair"],
};

const scrub: Members<ScrubOutput> = {
  depth: ["text", "`objects` or `full`"],
  verdict: ["verdict", "the worst of this run; the exit code is 0, 14 or 12"],
  objectsChecked: ["number", "objects that were read in this run"],
  blocksChecked: ["number", "blocks and map nodes whose ids were compared; 0 unless `full`"],
  bytesRead: ["number", "of them"],
  objectsListed: ["number", "objects that can be checked"],
  bytesListed: ["number", "of them"],
  neverChecked: ["number", "objects that no scrub of this depth has read yet"],
  neverCheckedBytes: ["number", "of them"],
  oldestCheckedAt: ["text?", "when the object was read whose check is longest ago"],
  badObjects: ["list of bad object", "at most 1,000"],
  badObjectsOmitted: ["number", "how many more"],
  damagedBefore: ["number", "objects that earlier checks had found damaged"],
  durationMs: ["number", "of this run"],
};

const storeVerify: Members<StoreVerifyOutput> = {
  depth: ["text", "`structure` or `objects`"],
  verdict: ["verdict", "the worst of everything; the exit code is 0, 14 or 12"],
  objectsListed: ["number", "objects of the vault in the store"],
  objectsExpected: ["number", "objects that the inventory names"],
  objectsUnnamed: ["number", "objects that it does not name (yet)"],
  objectsChecked: ["number", "objects that were read"],
  bytesRead: ["number", "of the store"],
  badObjects: ["list of bad object", "at most 1,000"],
  badObjectsOmitted: ["number", "how many more"],
  durationMs: ["number", "of the whole check"],
};

const badObject: Members<BadObjectOutput> = {
  name: ["text", "name in the store"],
  verdict: ["verdict", "`damaged`, or `unknown` where it could not be read just now"],
  reason: ["text", "what is wrong"],
};

const verifiedPoint: Members<VerifiedPointOutput> = {
  id: ["text", "id of the recovery point"],
  itemId: ["text", "id of the item; empty where the manifest cannot be read"],
  itemName: ["text", "its name; empty as above"],
  verdict: ["verdict", "the worst of its disks"],
  disks: ["list of verified disk", "empty where the manifest cannot be read"],
  reason: ["text?", "what is wrong with the manifest"],
};

const verifiedDisk: Members<VerifiedDiskOutput> = {
  name: ["text", "name of the disk"],
  verdict: ["verdict", "the worst of its ranges"],
  damagedBytes: ["number", "bytes of the disk that cannot be restored"],
  ranges: ["list of range", "where they are; at most 1,000"],
  rangesOmitted: ["number", "how many more"],
  reason: ["text?", "what is wrong with the first"],
};

const range: Members<DamagedRangeOutput> = {
  offsetBytes: ["number", "on the disk"],
  lengthBytes: ["number", "in whole windows of 256 KiB, cut at the end of the disk"],
};

const lag: Members<LagOutput> = {
  points: ["number", "recovery points that the secondary lacks"],
  objects: ["number", "objects that it lacks"],
  bytes: ["number", "of these objects"],
  seconds: [
    "number",
    "age of the oldest recovery point that it lacks, by the time in its id; else 0",
  ],
  measuredAt: ["time", "when the primary was listed"],
};

const vaultLag: Members<VaultLagOutput> = {
  primary: ["text", "store of the primary"],
  secondary: ["text", "store of the secondary"],
  lag: ["lag", "by names and sizes of objects"],
};

const copy: Members<CopyOutput> = {
  from: ["text", "store that was copied"],
  to: ["text", "store of the copy"],
  objects: ["number", "objects that were copied in this run"],
  bytes: ["number", "of these objects"],
  points: ["number", "recovery points among them"],
  heldBack: ["list of held-back point", "points that need something damaged or missing"],
  damaged: ["list of bad object", "objects that were not copied"],
  lag: ["lag", "what the copy lacks of what the other store held when it was listed"],
  isSecondary: ["yes or no", "whether the copy follows the other store or is a vault of its own"],
  pruning: ["pruning?", "what was taken out of the secondary; only with `--prune`"],
  durationMs: ["number", "of the whole copy"],
};

const pruning: Members<SecondaryPruningOutput> = {
  pointsDeleted: ["number", "recovery points that the primary has deleted"],
  pointsUnexplained: [
    "number",
    "recovery points that are gone in the primary without a proof: they stay",
  ],
  freedBytes: ["number", "bytes of packs that were removed"],
};

const heldBackPoint: Members<HeldBackPointOutput> = {
  id: ["text", "id of the recovery point"],
  item: ["text", "keyed name of its item in the store"],
  reason: ["text", "what is wrong"],
};

const vaultHealed: Members<VaultHealedOutput> = {
  store: ["text", "store of the vault that was healed"],
  copy: ["text", "store that it was healed from"],
  objectsChecked: ["number", "objects that were read and hashed"],
  bytesRead: ["number", "of these objects"],
  healed: ["list of healed object", "what is as it must be again"],
  unhealed: ["list of bad object", "what is not, manifests among them"],
  durationMs: ["number", "of the whole run"],
};

const healedObject: Members<HealedObjectOutput> = {
  name: ["text", "name in the store"],
  was: ["text", "`damaged` or `missing`"],
};

const vaultPromoted: Members<VaultPromotedOutput> = {
  store: ["text", "store of the vault that is one of its own now"],
};

const vaultAccepted: Members<VaultAcceptedOutput> = {
  store: ["text", "store that the host remembers as it is now"],
  forgotten: ["list of text", "objects that it has seen there and that are gone or others now"],
};

const vms: Members<VmsOutput> = { vms: ["list of VM", "in the order of their ids"] };

const vm: Members<VmOutput> = {
  id: ["text", "id on this host"],
  name: ["text", "its name"],
  state: ["text", "`running` or `stopped`"],
  snapshots: ["number", "snapshots that lie beside its disks"],
  disks: ["list of VM disk", "in the order of its devices"],
};

const vmDisk: Members<VmDiskOutput> = {
  name: ["text", "name within the VM"],
  path: ["text", "path that its description names"],
  format: ["text", "`raw` or `qcow2`"],
  sizeBytes: ["number", "what the guest sees"],
  pool: ["text?", "libvirt's pool of which its description names it as a volume"],
};

const vmExtension: Members<VmExtensionOutput> = {
  vm: ["text", "id of the VM"],
  isInstalled: ["true or false", "whether it is in the guest"],
  isCurrent: [
    "true or false?",
    "whether it is the one of this Kluis; the next backup replaces another",
  ],
  version: ["text?", "its version"],
  lastStatus: [
    "text?",
    "what the last backup came to: `application`, `file-system`, `crash`, `refused` or `interrupted`",
  ],
  lastError: ["text?", "why it was not better"],
  lastAt: ["text?", "when, by the guest's clock"],
  changes: ["list of text", "what it has changed in the guest"],
};

const vmChanged: Members<VmChangedOutput> = {
  vm: ["VM", "as it is now"],
  durationMs: ["number", "of the command's work"],
};

/** Every document and every part, in the order of the page. */
export const outputShapes: readonly ShapeDoc[] = [
  toDocument("error", "any command that fails, on the error stream", { ...error }),
  toDocument("vault-created", "`vault create`", { ...vaultCreated }),
  toDocument("keys", "`vault key list`", { ...keys }),
  toDocument("key-added", "`vault key add`", { ...keyAdded }),
  toDocument("prune", "`vault prune`", { ...prune }),
  toDocument("collection", "`vault collect`", { ...collection }),
  toDocument("deleted", "`image delete`", { ...deleted }),
  toDocument("key-removed", "`vault key remove`", { ...keyRemoved }),
  toDocument("keys-rotated", "`vault key rotate`", { ...keysRotated }),
  toDocument("key-proof", "`vault key proof` and `rescue check`", { ...keyProof }),
  toDocument("host-keys", "`key list`", { ...hostKeys }),
  toDocument(
    "host-key-changed",
    "`key create`, `rotate`, `disable`, `enable`, `delete`, `recover`",
    {
      ...hostKeyChanged,
    },
  ),
  toDocument("backup", "`image backup`, and `vm backup` and `vm transfer` that sent a point", {
    ...backup,
  }),
  ...jobDocuments,
  toDocument("points", "`image list` and `rescue list`", { ...points }),
  toDocument("restore", "`image restore`, `vm restore` and `rescue restore`", { ...restore }),
  toDocument("verify", "`image verify` and `rescue verify`", { ...verify }),
  toDocument("copy", "`vault replicate` and `rescue copy`", { ...copy }),
  toDocument("vault-lag", "`vault lag`", { ...vaultLag }),
  toDocument("vault-healed", "`vault heal`", { ...vaultHealed }),
  toDocument("vault-promoted", "`vault promote`", { ...vaultPromoted }),
  toDocument("vault-accepted", "`vault accept`", { ...vaultAccepted }),
  toDocument("repair", "`vault repair`", { ...repair }),
  toDocument("scrub", "`vault scrub`", { ...scrub }),
  toDocument("store-verify", "`vault verify`", { ...storeVerify }),
  toDocument("vms", "`vm list`", { ...vms }),
  toDocument("vm-started", "`vm start`", { ...vmChanged }),
  toDocument("vm-detached", "`vm detach`", { ...vmChanged }),
  toDocument("vm-extension", "`vm extension status`, `install`, `remove`", { ...vmExtension }),
  toPart("key", { ...key }),
  toPart("pruned point", { ...prunedPoint }),
  toPart("rewrapped key", { ...rewrappedKey }),
  toPart("proven epoch", { ...provenEpoch }),
  toPart("host key", { ...hostKey }),
  toPart("host key version", { ...hostKeyVersion }),
  toPart("point", { ...point }),
  toPart("point disk", { ...pointDisk }),
  ...jobParts,
  toPart("unreadable point", { ...unreadable }),
  toPart("restored disk", { ...restoredDisk }),
  toPart("bad object", { ...badObject }),
  toPart("verified point", { ...verifiedPoint }),
  toPart("verified disk", { ...verifiedDisk }),
  toPart("range", { ...range }),
  toPart("lag", { ...lag }),
  toPart("pruning", { ...pruning }),
  toPart("healed object", { ...healedObject }),
  toPart("held-back point", { ...heldBackPoint }),
  toPart("VM", { ...vm }),
  toPart("VM disk", { ...vmDisk }),
];
