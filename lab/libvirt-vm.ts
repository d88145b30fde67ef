/**
 * A domain for one test: defined in a libvirt of the lab, with disks of its own, ready to start from
 * a saved state in about a second. One at a time in a libvirt: a saved state belongs to one UUID.
 */
import { chmod, cp, mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { present } from "#base/assert.ts";
import { planVirshAgent } from "#drivers/guest/virsh-agent-channel.ts";
import { VIRSH_XML } from "#drivers/libvirt/virsh.ts";
import type { DescribedDisk } from "#drivers/qemu/description.ts";
import { readProcessIdentity } from "#drivers/process/process-identity.ts";
import { quoteXml } from "#drivers/libvirt/xml.ts";
import { createAgentExec } from "./agent-exec.ts";
import { ensureImage } from "./build.ts";
import { ensureEntry } from "./cache.ts";
import { cutPowerOf } from "./cut-power.ts";
import type { GuestExec } from "./guest-exec.ts";
import { runInGuest } from "./guest.ts";
import { describeGuest } from "./guest-kind.ts";
import { writeTestDisk, type DiskKind } from "./lab-vm.ts";
import { openLoopDevice, type LoopDevice } from "./loop-device.ts";
import { openLibvirtHost, type LibvirtHostOptions, type LibvirtLab } from "./libvirt-host.ts";
import { diskNames, rawDisks, warmCaches, writeDisks } from "./template.ts";
import { readTool } from "./tools.ts";

const recipeVersion = 2;
/** The name and UUID of every domain of the lab. */
export const labDomain = { name: "lab", uuid: "6b6c7569-7300-4000-8000-6c6162000001" } as const;
const stateFile = "lab.save";
/** Of an agent that is the tests' own; see mini-exec-agent. */
const execSocket = "exec.sock";
const stateTimeoutMs = 120_000;
/** libvirt takes 4 KiB for the XML of a saved state; a template's paths are as long as a test's. */
const disksFolder = "disks";

/** A template: disks and a saved state of a booted guest, and what libvirt found out about QEMU. */
interface LibvirtTemplate {
  readonly directory: string;
  readonly image: string;
  readonly disks: readonly DescribedDisk[];
}

/** How a disk of a domain is made: as that of any lab VM, or as a block device over a full raw copy. */
export type LibvirtDiskKind = DiskKind | "device";

/** A disk of a domain. */
interface LabDisk extends DescribedDisk {
  readonly device?: LoopDevice;
}

/** What a test asks of its domain. */
export interface LibvirtVmOptions {
  /** How its disks hang together with the template, by name; `overlay` where none is named. */
  readonly disks?: Readonly<Record<string, LibvirtDiskKind>>;
  /** `warm`: the first start loads the saved state (default). `cold`: every start boots. */
  readonly start?: "warm" | "cold";
  /** Changes the XML before it is defined. */
  readonly planXml?: (xml: string, directory: string) => string;
}

/** A domain that is defined and not started. */
export interface LibvirtVm extends AsyncDisposable {
  readonly host: LibvirtLab;
  readonly uuid: string;
  /** The images; disposing removes the folder. */
  readonly directory: string;
  readonly ackSocket: string;
  /** By an agent of the tests' own, which libvirt does not know. */
  readonly exec: GuestExec;
  diskPath(name: string): string;
  /** The device that a disk is; it has one where the test asked for that. */
  device(name: string): LoopDevice;
  /** Kills QEMU and waits for its end; works without libvirtd. */
  cutPower(): Promise<void>;
}

/** A libvirt whose domains have data disks of these sizes. One for a test file. */
export class LibvirtVms implements AsyncDisposable {
  readonly host: LibvirtLab;
  readonly #template: LibvirtTemplate;
  #count = 0;

  private constructor(host: LibvirtLab, template: LibvirtTemplate) {
    this.host = host;
    this.#template = template;
  }

  /** Starts the libvirt; builds the template first where the cache has none. */
  static async open(
    dataDisksMiB: readonly number[],
    options: Omit<LibvirtHostOptions, "capabilities"> = {},
  ): Promise<LibvirtVms> {
    const cached = await ensureLibvirtTemplate(dataDisksMiB);
    const capabilities = join(cached.directory, "capabilities");
    const host = await openLibvirtHost({ ...options, capabilities });
    try {
      const isOwn = options.qemuUser === "unprivileged";
      return new LibvirtVms(host, isOwn ? await copyTemplate(cached, host.root) : cached);
    } catch (error) {
      await host[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Defines the domain of one test. */
  async create(options: LibvirtVmOptions = {}): Promise<LibvirtVm> {
    const { host } = this;
    const template = this.#template;
    this.#count += 1;
    const directory = join(host.root, disksFolder, String(this.#count));
    await mkdir(directory, { recursive: true, mode: 0o755 });
    await using owned = new AsyncDisposableStack();
    const disks: LabDisk[] = [];
    for (const base of template.disks) {
      disks.push(
        await writeDisk(base, options.disks?.[base.name] ?? "overlay", { directory, owned }),
      );
    }
    const planned = planDomainXml({ image: template.image, directory, disks });
    const xml = options.planXml?.(planned, directory) ?? planned;
    await host.virsh.run(["define", VIRSH_XML], { xml });
    if (options.start !== "cold") {
      const state = join(host.saveDirectory, stateFile);
      await cp(join(template.directory, stateFile), state);
      await host.virsh.run(["save-image-define", state, VIRSH_XML], { xml });
    }
    const devices = owned.move();
    return {
      host,
      uuid: labDomain.uuid,
      directory,
      ackSocket: join(directory, "ack.sock"),
      exec: createAgentExec(join(directory, execSocket)),
      cutPower: () => killQemu(host),
      diskPath: (name) => disks.find((disk) => disk.name === name)?.path ?? "",
      device: (name) =>
        present(disks.find((disk) => disk.name === name)?.device, `disk ${name} is a device`),
      [Symbol.asyncDispose]: async () => {
        await using _ = devices;
        await removeDomain(host);
        await rm(directory, { recursive: true, force: true });
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.host[Symbol.asyncDispose]();
  }
}

async function writeDisk(
  base: DescribedDisk,
  kind: LibvirtDiskKind,
  place: { readonly directory: string; readonly owned: AsyncDisposableStack },
): Promise<LabDisk> {
  const { directory, owned } = place;
  if (kind !== "device") return writeTestDisk(base, kind, directory);
  const disk = await writeTestDisk(base, "raw", directory);
  const device = owned.use(await openLoopDevice(disk.path, join(directory, `${base.name}.device`)));
  return { ...disk, path: device.path, device };
}

async function killQemu(host: LibvirtLab): Promise<void> {
  const pid = Number(
    await readFile(join(host.root, "run", "qemu", `${labDomain.name}.pid`), "utf8"),
  );
  const identity = await readProcessIdentity(pid);
  if (identity !== undefined) await cutPowerOf(identity);
}

async function removeDomain(host: LibvirtLab): Promise<void> {
  const state = await host.virsh.run(["domstate", labDomain.uuid]);
  if (state.trim() !== "shut off") await host.virsh.run(["destroy", labDomain.uuid]);
  // libvirt does not know of a saved state that we put there.
  await rm(join(host.saveDirectory, stateFile), { force: true });
  // Checkpoints are those of another backup program.
  await host.virsh.run(["undefine", labDomain.uuid, "--checkpoints-metadata"]);
}

async function ensureLibvirtTemplate(dataDisksMiB: readonly number[]): Promise<LibvirtTemplate> {
  const image = await ensureImage("mini");
  const names = diskNames(dataDisksMiB.length);
  const recipe = {
    recipeVersion,
    dataDisksMiB,
    xml: planDomainXml({ image, directory: "/", disks: rawDisks("/", names) }),
    libvirt: await readTool("libvirtd", ["--version"]),
    qemu: await readTool("qemu-system-x86_64", ["--version"]),
  };
  const directory = await ensureEntry("template-libvirt", recipe, async (draft) => {
    await writeDisks(draft, { image, names, sizesMiB: dataDisksMiB });
    await saveState(draft, image, rawDisks(draft, names));
  });
  return { directory, image, disks: rawDisks(directory, names) };
}

/** A template whose files another user may own for a while, where that user can reach them. */
async function copyTemplate(template: LibvirtTemplate, root: string): Promise<LibvirtTemplate> {
  const directory = join(root, "template");
  const image = join(root, "image");
  for (const [from, to] of [
    [template.directory, directory],
    [template.image, image],
  ] as const) {
    await readTool("cp", ["-r", "--sparse=always", "--reflink=auto", from, to]);
    await chmod(to, 0o755);
  }
  const names = template.disks.map((disk) => disk.name);
  return { directory, image, disks: rawDisks(directory, names) };
}

async function saveState(
  draft: string,
  image: string,
  disks: readonly DescribedDisk[],
): Promise<void> {
  await using host = await openLibvirtHost();
  const directory = join(host.root, disksFolder, "template");
  await mkdir(directory, { recursive: true });
  const xml = planDomainXml({ image, directory, disks });
  await host.virsh.run(["define", VIRSH_XML], { xml });
  await host.virsh.run(["start", labDomain.uuid]);
  await warmCaches({ exec: createAgentExec(join(directory, execSocket)) });
  // The agent that libvirt knows is up in the saved state too.
  const socketPath = join(directory, "agent.sock");
  const agent = planVirshAgent({ uri: host.uri, domain: labDomain.uuid, socketPath });
  await runInGuest(createAgentExec(agent), ":");
  const state = join(draft, stateFile);
  await host.virsh.run(["save", labDomain.uuid, state], { timeoutMs: stateTimeoutMs });
  await cp(host.capabilitiesDirectory, join(draft, "capabilities"), { recursive: true });
  for (const { path } of disks) await readTool("chmod", ["0444", path]);
}

interface DomainPlan {
  readonly image: string;
  /** Where its sockets are. */
  readonly directory: string;
  readonly disks: readonly LabDisk[];
}

/** The machine of every domain of the lab; a saved state fits it with any images. */
function planDomainXml(plan: DomainPlan): string {
  const { image, directory, disks } = plan;
  const guest = describeGuest("mini", { image, name: labDomain.name, disks });
  const channels = [
    ["agent.sock", "org.qemu.guest_agent.0"],
    ["ack.sock", "kluis.lab.ack"],
    [execSocket, "kluis.lab.exec"],
  ].map(
    ([file = "", name = ""]) =>
      `<channel type='unix'><source mode='bind' path=${quoteXml(join(directory, file))}/>` +
      `<target type='virtio' name=${quoteXml(name)}/></channel>`,
  );
  return `<domain type='qemu'>
<name>${labDomain.name}</name>
<uuid>${labDomain.uuid}</uuid>
<memory unit='MiB'>${String(guest.memoryMiB)}</memory>
<vcpu>${String(guest.cpus)}</vcpu>
<os><type arch='x86_64' machine='pc-q35-6.2'>hvm</type>
<kernel>${guest.kernel ?? ""}</kernel><initrd>${guest.initrd ?? ""}</initrd>
<cmdline>${guest.append ?? ""}</cmdline></os>
<features><acpi/></features>
<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model></cpu>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
<devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
${disks.map(planDiskXml).join("\n")}
<controller type='usb' model='none'/>
<serial type='null'/>
${channels.join("\n")}
<memballoon model='none'/>
</devices>
</domain>
`;
}

function planDiskXml(disk: LabDisk): string {
  const [type, source] = disk.device === undefined ? ["file", "file"] : ["block", "dev"];
  return (
    `<disk type='${type}' device='disk'>` +
    `<driver name='qemu' type='${disk.format}' discard='unmap' detect_zeroes='unmap'/>` +
    `<source ${source}=${quoteXml(disk.path)}/><target dev='${disk.name}' bus='virtio'/>` +
    `<serial>${disk.name}</serial></disk>`
  );
}
