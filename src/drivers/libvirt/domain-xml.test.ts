/**
 * Goal: of a domain's XML Kluis reads what it needs, and changes the images of its disks and nothing
 * else. Method: XML as libvirt 9 writes it, live and persistent.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import {
  giveNewIdentity,
  listVolumes,
  nameImages,
  parseDomain,
  readDiskSecrets,
  readImagePaths,
  volumeKey,
} from "./domain-xml.ts";

const head = `<domain type='kvm' id='3'>
  <name>a &amp; b</name>
  <uuid>6b6c7569-7300-4000-8000-6c6162000001</uuid>
  <!-- <disk/> in a comment -->
  <devices>`;
const tail = `
    <graphics type='vnc' passwd='se"cret'/>
    <channel type='unix'><source mode='bind' path='/run/agent'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
  </devices>
</domain>
`;

function domainOf(disks: string): string {
  return `${head}${disks}${tail}`;
}

const rawDisk = `
    <disk type='file' device='disk'>
      <driver name="qemu" type="raw" cache='none'/>
      <source file='/images/a&apos;.raw' index='1'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
    </disk>`;

test("domain XML: names UUID, name, disks and the agent's channel", () => {
  const domain = parseDomain(domainOf(rawDisk));
  assert.equal(domain.uuid, "6b6c7569-7300-4000-8000-6c6162000001");
  assert.equal(domain.name, "a & b");
  assert.equal(domain.agentPath, "/run/agent");
  const chain = ["/images/a'.raw"];
  assert.deepEqual(domain.disks, [
    { name: "vda", path: "/images/a'.raw", format: "raw", chain, isDevice: false },
  ]);
});

test("domain XML: reads the chain of a running domain from the top down", () => {
  const chained = `<disk type='file' device='disk'><driver type='qcow2'/><source file='/c'/>
    <backingStore type='file'><format type='qcow2'/><source file='/b'/>
    <backingStore type='file'><format type='raw'/><source file='/a'/><backingStore/></backingStore>
    </backingStore><target dev='vda'/></disk>`;
  assert.deepEqual(parseDomain(domainOf(chained)).disks[0]?.chain, ["/c", "/b", "/a"]);
  assert.deepEqual(readImagePaths(domainOf(chained)), ["/c", "/b", "/a"]);
});

test("domain XML: another image changes type, format and path, and nothing else", () => {
  const xml = domainOf(rawDisk);
  const named = nameImages(xml, new Map([["vda", { path: "/l'<1>", format: "qcow2" }]]));
  const disk = parseDomain(named).disks[0];
  assert.deepEqual([disk?.path, disk?.format, disk?.chain.length], ["/l'<1>", "qcow2", 1]);
  assert.ok(named.startsWith(head) && named.endsWith(tail));
  assert.ok(named.includes("cache='none'"));
  const back = nameImages(named, new Map([["vda", { path: "/images/a'.raw", format: "raw" }]]));
  assert.deepEqual(parseDomain(back).disks, parseDomain(xml).disks);
  assert.equal(nameImages(named, new Map()), named);
});

test("domain XML: a new identity has another name and nothing that is one domain's own", () => {
  const nic = `<interface type='network'><mac address='52:54:00:00:00:01'/><model type='virtio'/>
    </interface>`;
  const xml = giveNewIdentity(domainOf(rawDisk + nic), "new <1>");
  const domain = parseDomain(xml);
  assert.deepEqual([domain.name, domain.uuid, domain.agentPath], ["new <1>", undefined, undefined]);
  assert.ok(domain.hasAgent && !xml.includes("<mac ") && xml.includes("<model type='virtio'/>"));
  assert.deepEqual(domain.disks, parseDomain(domainOf(rawDisk)).disks);
});

test("domain XML: says which disks cannot have layers, and which no snapshot takes", () => {
  const disks = `
    <disk type='network' device='disk'><driver type='raw'/><source protocol='rbd' name='p/i'/>
      <target dev='vda'/></disk>
    <disk type='file' device='disk'><driver type='raw' cache='unsafe'/><source file='/u'/>
      <target dev='vdb'/></disk>
    <disk type='file' device='disk'><driver type='vmdk'/><source file='/v'/>
      <target dev='vdc'/></disk>
    <disk type='file' device='disk'><driver type='qcow2'/><source file='/e'>
      <encryption format='luks2'/></source><target dev='vdd'/></disk>
    <disk type='block' device='disk'><driver type='qcow2'/><source dev='/dev/sdb'/>
      <target dev='vde'/></disk>
    <disk type='block' device='lun'><driver type='raw'/><source dev='/dev/sdb'/>
      <target dev='vdf'/></disk>
    <disk type='file' device='disk'><driver type='raw'/><source file='/dev/sdb'/>
      <target dev='vdg'/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>`;
  const domain = parseDomain(domainOf(disks));
  assert.deepEqual(
    domain.refused.map((disk) => disk.name),
    ["vda", "vdb", "vdc", "vdd", "vde", "vdf", "vdg"],
  );
  assert.deepEqual([domain.disks, domain.skipped], [[], ["sda"]]);
});

test("domain XML: what libvirt does not write is refused", () => {
  for (const xml of ["", "<domain>", "<a></b>", "<a/><b/>", "<domain><devices>&</domain>", "x<"]) {
    assert.throws(
      () => parseDomain(xml),
      (error) => isKluisError(error, "ConfigInvalid"),
    );
  }
});

test("domain XML: a volume of a pool becomes a file with its layer, and a volume again", () => {
  const volume = { pool: "p", volume: "a'b.qcow2" };
  const disk = `
    <disk device='disk' type='volume'>
      <driver name='qemu' type='qcow2'/>
      <source pool='p' volume='a&apos;b.qcow2' startupPolicy='optional'/>
      <target dev='vda'/>
    </disk>`;
  const xml = domainOf(disk);
  assert.deepEqual(listVolumes(xml), [volume]);
  assert.match(parseDomain(xml).refused[0]?.reason ?? "", /volume "a'b.qcow2" of pool "p"/);
  const image = { path: "/pool/a'b.qcow2", isDevice: false };
  const volumes = new Map([[volumeKey(volume), image]]);
  const [read] = parseDomain(xml, volumes).disks;
  assert.deepEqual([read?.path, read?.volume], ["/pool/a'b.qcow2", volume]);
  assert.deepEqual(readImagePaths(xml, volumes), ["/pool/a'b.qcow2"]);
  const layered = nameImages(xml, new Map([["vda", { path: "/pool/l", format: "qcow2" }]]));
  assert.deepEqual(listVolumes(layered), []);
  const [layer] = parseDomain(layered).disks;
  assert.deepEqual([layer?.path, layer?.volume], ["/pool/l", undefined]);
  assert.ok(layered.includes("startupPolicy='optional'"));
  const original = { path: "/pool/a'b.qcow2", format: "qcow2", volume } as const;
  const back = nameImages(layered, new Map([["vda", original]]));
  assert.deepEqual(parseDomain(back, volumes), parseDomain(xml, volumes));
});

test("domain XML: a block device becomes a file with its layer, and the same device again", () => {
  const disk = `
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw' cache='none' io='native'/>
      <source dev='/dev/vg/a&apos;b'/>
      <target dev='vdb' bus='virtio'/>
    </disk>`;
  const xml = domainOf(disk);
  const [read] = parseDomain(xml).disks;
  assert.deepEqual([read?.path, read?.isDevice, read?.format], ["/dev/vg/a'b", true, "raw"]);
  assert.deepEqual(readImagePaths(xml), ["/dev/vg/a'b"]);
  const layered = nameImages(xml, new Map([["vdb", { path: "/pool/l", format: "qcow2" }]]));
  const [layer] = parseDomain(layered).disks;
  assert.deepEqual([layer?.path, layer?.isDevice, layer?.chain.length], ["/pool/l", false, 1]);
  assert.ok(!layered.includes("dev='/dev"), "a layer is no device");
  const original = { path: "/dev/vg/a'b", format: "raw", isDevice: true } as const;
  const back = nameImages(layered, new Map([["vdb", original]]));
  assert.equal(back, xml);
});

test("domain XML: a volume may be a block device", () => {
  const volume = { pool: "vg", volume: "lv" };
  const xml = domainOf(`<disk type='volume' device='disk'><driver type='raw'/>
    <source pool='vg' volume='lv'/><target dev='vdb'/></disk>`);
  const volumes = new Map([[volumeKey(volume), { path: "/dev/vg/lv", isDevice: true }]]);
  const [read] = parseDomain(xml, volumes).disks;
  assert.deepEqual([read?.path, read?.isDevice, read?.volume], ["/dev/vg/lv", true, volume]);
  const layered = nameImages(xml, new Map([["vdb", { path: "/pool/l", format: "qcow2" }]]));
  const original = { path: "/dev/vg/lv", format: "raw", volume, isDevice: true } as const;
  const back = nameImages(layered, new Map([["vdb", original]]));
  assert.deepEqual(parseDomain(back, volumes), parseDomain(xml, volumes));
});

const secretId = "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f";
const other = "11111111-2222-4333-8444-555555555555";

function encryption(id: string): string {
  return `<encryption format='luks'>
        <secret type='passphrase' uuid='${id}'/>
      </encryption>`;
}

test("domain XML: an encrypted disk names all its layers with their secret, and the original alone again", () => {
  const disk = `
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='/images/a.luks'>
        ${encryption(secretId)}
      </source>
      <target dev='vdb' bus='virtio'/>
    </disk>`;
  const xml = domainOf(disk);
  const [read] = parseDomain(xml).disks;
  assert.deepEqual([read?.format, read?.path, read?.secretId], ["raw", "/images/a.luks", secretId]);
  assert.deepEqual([...readDiskSecrets(xml)], [["vdb", secretId]]);
  const below = [
    { path: "/images/<1>", format: "qcow2", secretId },
    { path: "/images/a.luks", format: "raw", secretId },
  ] as const;
  const image = { path: "/images/2", format: "qcow2", below } as const;
  const layered = nameImages(xml, new Map([["vdb", image]]));
  const [layer] = parseDomain(layered).disks;
  assert.deepEqual(layer?.chain, ["/images/2", "/images/<1>", "/images/a.luks"]);
  assert.deepEqual([layer?.format, layer?.secretId], ["qcow2", secretId]);
  assert.equal(layered.match(/<encryption format='luks'>/g)?.length, 3);
  assert.match(layered, /<format type='raw'\/>.*<backingStore\/><\/backingStore>/s);
  // libvirt gives it back in lines of its own.
  const asLibvirtHasIt = layered.replaceAll("><", ">\n<");
  assert.equal(nameImages(asLibvirtHasIt, new Map([["vdb", image]])), asLibvirtHasIt);
  for (const changed of [below.slice(1), [{ ...below[0], secretId: other }, below[1]]]) {
    const named = nameImages(layered, new Map([["vdb", { ...image, below: changed }]]));
    assert.notEqual(named, layered);
    assert.equal(parseDomain(named).disks[0]?.chain.length, changed.length + 1);
  }
  const original = { path: "/images/a.luks", format: "raw" } as const;
  assert.equal(nameImages(layered, new Map([["vdb", original]])), xml);
});

test("domain XML: encryption beside the source counts too, and only that which QEMU can give to layers", () => {
  const diskOf = (element: string): string =>
    domainOf(`<disk type='file' device='disk'><driver type='qcow2'/><source file='/e'/>${element}
      <target dev='vdb'/></disk>`);
  assert.equal(parseDomain(diskOf(encryption(secretId))).disks[0]?.secretId, secretId);
  for (const [element, reason] of [
    ["<encryption format='luks2' engine='librbd'/>", /"luks2" by "librbd"/],
    ["<encryption format='qcow'/>", /"qcow"/],
    ["<encryption format='luks'/>", /one secret of type "passphrase"/],
    [
      "<encryption format='luks'><secret type='volume' uuid='u'/></encryption>",
      /type "passphrase"/,
    ],
    ["<encryption format='luks'><secret type='passphrase' usage='u'/></encryption>", /by uuid/],
  ] as const) {
    const { disks, refused } = parseDomain(diskOf(element));
    assert.deepEqual(disks, []);
    assert.match(refused[0]?.reason ?? "", reason);
  }
  const clear = `<backingStore type='file'><format type='raw'/><source file='/b'>
    ${encryption(secretId)}</source><backingStore/></backingStore>`;
  assert.match(parseDomain(diskOf(clear)).refused[0]?.reason ?? "", /lies on an encrypted image/);
  const device = domainOf(`<disk type='block' device='disk'><driver type='raw'/>
    <source dev='/dev/sdb'>${encryption(secretId)}</source><target dev='vdb'/></disk>`);
  assert.match(parseDomain(device).refused[0]?.reason ?? "", /encrypted block device/);
});
