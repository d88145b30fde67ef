// Goal: a container reads back as it was built, one plaintext is never sealed like another, and a
// change of any byte, or of the order or number of frames, is found and named.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { computeName } from "#vault/hashing.ts";
import { concatBytes, toHex } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import {
  containerHeaderBytes,
  encodeTrailer,
  frameOverheadBytes,
  parseFrameHeader,
  trailerBytes,
} from "#formats/container.ts";
import { frameBytesMax } from "#formats/geometry.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { containerPlainBytesMax } from "#vault/limits.ts";
import { type ContainerType, deriveVaultKeys } from "#vault/keys/vault-keys.ts";
import { buildContainer } from "./build-container.ts";
import { ContainerBuilder } from "./container-builder.ts";
import { assertContentName, openContainer, openFetchedFrame, sealOf } from "./container-reader.ts";
import { openFrame, sealFrame } from "./frame.ts";

const name = "index/ab";
const types = ["pack", "mapPack", "indexSegment", "manifest"] as const;

function isCorrupt(error: unknown): boolean {
  return isKluisError(error, "ObjectCorrupt") && error.message.includes(name);
}

function open(bytes: Uint8Array, type: ContainerType = "indexSegment"): Uint8Array {
  return openContainer(testKeys, { name, bytes, type }).content;
}

/** A container of these frames, and of a footer if there is one; the place of each frame. */
function build(
  frames: readonly Uint8Array[],
  options: { readonly type?: ContainerType; readonly footer?: Uint8Array } = {},
): { bytes: Uint8Array; name: Uint8Array; builder: ContainerBuilder } {
  const random = createSeededRandom("salt");
  const builder = new ContainerBuilder({
    type: options.type ?? "indexSegment",
    keys: testKeys,
    random,
  });
  for (const frame of frames) builder.addFrame(frame, { compress: true });
  const bytes = builder.finish(options.footer);
  return { bytes, name: computeName(bytes), builder };
}

/** The frames of a container as they lie in it. */
function cutFrames(bytes: Uint8Array): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let at = containerHeaderBytes; at < bytes.length - trailerBytes;) {
    const end = at + parseFrameHeader(bytes, at, name).sealedBytes + frameOverheadBytes;
    frames.push(bytes.subarray(at, end));
    at = end;
  }
  return frames;
}

/** A container of the same header and other frames, without a footer. */
function assemble(bytes: Uint8Array, frames: readonly Uint8Array[]): Uint8Array {
  return concatBytes([bytes.subarray(0, containerHeaderBytes), ...frames, encodeTrailer(0)]);
}

test("container: reads back what was built, of any type, size and compressibility", () => {
  const random = createSeededRandom("round trip");
  for (const type of types) {
    for (const length of [
      1,
      2,
      100,
      frameBytesMax - 1,
      frameBytesMax,
      frameBytesMax + 1,
      3_000_000,
    ]) {
      for (const plain of [random.bytes(length), new Uint8Array(length).fill(7)]) {
        const built = buildContainer(type, plain, { keys: testKeys, random });
        assert.deepEqual(open(built.bytes, type), plain);
        assertContentName(built.bytes, built.name, name);
        const sha256 = createHash("sha256").update(built.bytes).digest("hex");
        assert.equal(toHex(built.name), sha256);
      }
    }
  }
});

test("container: a footer is read with the content or alone", () => {
  const random = createSeededRandom("footer");
  const [content, footer] = [random.bytes(5000), random.bytes(frameBytesMax + 5)];
  const { bytes } = build([content], { type: "pack", footer });
  const whole = openContainer(testKeys, { name, bytes, type: "pack" });
  assert.deepEqual([whole.content, whole.footer], [content, footer]);
  assert.deepEqual(
    whole.frames.map(({ kind }) => kind),
    ["content", "footer", "footer"],
  );
  const alone = openContainer(testKeys, { name, bytes, type: "pack" }, { footerOnly: true });
  assert.deepEqual([alone.content.length, alone.footer], [0, footer]);
});

test("container: uses a buffer that was handed in, and grows without one", () => {
  const random = createSeededRandom("buffers");
  const plain = random.bytes(500_000);
  const buffer = new Uint8Array(600_000);
  const builder = new ContainerBuilder({ type: "pack", keys: testKeys, random, buffer });
  builder.addFrame(plain, { compress: true });
  const bytes = builder.finish();
  assert.equal(bytes.buffer, buffer.buffer);
  assert.deepEqual(open(bytes, "pack"), plain);
});

test("container: equal plaintext is sealed differently each time", () => {
  const random = createSeededRandom("fresh");
  const plain = new Uint8Array(1000).fill(1);
  const bodies = new Set<string>();
  for (let round = 0; round < 50; round++) {
    const builder = new ContainerBuilder({ type: "pack", keys: testKeys, random });
    for (let frame = 0; frame < 3; frame++) builder.addFrame(plain, { compress: false });
    const bytes = builder.finish();
    for (const frame of cutFrames(bytes)) bodies.add(toHex(frame.subarray(16)));
  }
  assert.equal(bodies.size, 150);
});

test("container: every changed byte is found and named", () => {
  const random = createSeededRandom("flips");
  for (const type of ["indexSegment", "manifest", "pack"] as const) {
    const footer = type === "pack" ? random.bytes(90) : undefined;
    const options = footer === undefined ? { type } : { type, footer };
    const { bytes } = build([random.bytes(40), new Uint8Array(300)], options);
    for (let at = 0; at < bytes.length; at++) {
      for (let bit = 0; bit < 8; bit++) {
        const changed = bytes.slice();
        changed[at]! ^= 1 << bit;
        assert.throws(
          () => open(changed, type),
          (error) => {
            // A version above ours is what it says; an epoch is one that this key ring lacks.
            const code =
              at === 9 ? "StoreFormatNewer" : at >= 12 && at < 16 ? "KeyWrong" : "ObjectCorrupt";
            const isNewer = isKluisError(error, code) || isKluisError(error, "ObjectCorrupt");
            return isNewer && (error as Error).message.includes(name);
          },
          `${type}: bit ${bit} of byte ${at}`,
        );
      }
    }
  }
});

test("container: cut or longer at any place, it is refused", () => {
  const random = createSeededRandom("cuts");
  const { bytes } = build([random.bytes(40), random.bytes(200)]);
  for (let length = 0; length < bytes.length; length++) {
    assert.throws(() => open(bytes.subarray(0, length)), isCorrupt, `${length} bytes`);
  }
  for (const more of [1, 16, 32, 100]) {
    assert.throws(() => open(concatBytes([bytes, new Uint8Array(more)])), isCorrupt);
    assert.throws(() => open(concatBytes([bytes, bytes.subarray(-more)])), isCorrupt);
  }
});

test("container: frames of text that were swapped, left out, doubled or moved are refused", () => {
  const random = createSeededRandom("frames");
  const parts = [random.bytes(50), random.bytes(50), random.bytes(50)];
  for (const type of ["indexSegment", "manifest", "mapPack"] as const) {
    const { bytes } = build(parts, { type });
    const [a, b, c] = cutFrames(bytes) as [Uint8Array, Uint8Array, Uint8Array];
    assert.deepEqual(open(assemble(bytes, [a, b, c]), type), concatBytes(parts));
    for (const frames of [[b, a, c], [a, c, b], [a, c], [b, c], [c], [a, a, b, c], [a, b, c, c]]) {
      assert.throws(() => open(assemble(bytes, frames), type), isCorrupt);
    }
    const other = build(parts, { type: type === "manifest" ? "indexSegment" : "manifest" });
    const foreign = cutFrames(other.bytes);
    assert.throws(() => open(assemble(bytes, foreign), type), isCorrupt);
  }
});

test("container: frames of a pack may have gaps and any order, but none comes twice", () => {
  const random = createSeededRandom("tickets");
  const builder = new ContainerBuilder({ type: "pack", keys: testKeys, random });
  const numbers = [builder.reserveFrames(4), builder.reserveFrames(2)] as const;
  const parts = new Map<number, Uint8Array>();
  for (const frame of [numbers[1], numbers[0] + 2]) {
    const plain = random.bytes(100);
    const target = new Uint8Array(200);
    const header = sealFrame(
      builder.seal,
      plain,
      { frame, kind: "content", compress: false },
      { target, at: 0 },
    );
    builder.appendSealed(target.subarray(0, header.sealedBytes + frameOverheadBytes));
    parts.set(frame, plain);
  }
  const bytes = builder.finish(new Uint8Array([1, 2, 3]));
  const opened = openContainer(testKeys, { name, bytes, type: "pack" });
  assert.deepEqual(opened.content, concatBytes([...parts.values()]));
  assert.deepEqual(
    opened.frames.map(({ frame }) => frame),
    [4, 2, 2 ** 31],
  );
  const [a, b] = cutFrames(bytes) as [Uint8Array, Uint8Array];
  for (const frames of [
    [a, b, a],
    [a, b, b],
    [b, b, b],
  ]) {
    assert.throws(() => open(assemble(bytes, frames), "pack"), isCorrupt);
  }
});

test("container: footer frames that were left out, doubled or passed off as content are refused", () => {
  const random = createSeededRandom("footers");
  const { bytes } = build([random.bytes(20)], {
    type: "pack",
    footer: random.bytes(2 * frameBytesMax + 1),
  });
  const [content, ...footer] = cutFrames(bytes) as [Uint8Array, ...Uint8Array[]];
  const [a, b, c] = footer as [Uint8Array, Uint8Array, Uint8Array];
  const head = [bytes.subarray(0, containerHeaderBytes), content];
  const start = containerHeaderBytes + content.length;
  const whole = concatBytes([...head, a, b, c, encodeTrailer(start)]);
  assert.deepEqual(whole, bytes);
  for (const frames of [[a, c], [b, c], [b, a, c], [a, a, b, c], []]) {
    const changed = concatBytes([...head, ...frames, encodeTrailer(start)]);
    assert.throws(() => open(changed, "pack"), isCorrupt, `${frames.length} footer frames`);
  }
  for (const offset of [0, containerHeaderBytes, start - 1, start + 1, start + a.length]) {
    const changed = concatBytes([...head, a, b, c, encodeTrailer(offset)]);
    assert.throws(() => open(changed, "pack"), isCorrupt, `footer at ${offset}`);
  }
});

test("container: another type, vault or key is refused", () => {
  const random = createSeededRandom("foreign");
  const { bytes } = build([random.bytes(10)]);
  assert.throws(() => open(bytes, "manifest"), isCorrupt);
  const master = new Uint8Array(32).fill(8);
  const otherVault = deriveVaultKeys(new Uint8Array(16), [{ epoch: 1, masterKey: master }]);
  const object = { name, bytes, type: "indexSegment" } as const;
  assert.throws(() => openContainer(otherVault, object), isCorrupt);
  const otherKey = deriveVaultKeys(testKeys.vaultId, [{ epoch: 1, masterKey: master }]);
  assert.throws(() => openContainer(otherKey, object), isCorrupt);
});

test("container: content under a name that is not its hash is refused without a key", () => {
  const { bytes, name: sha256 } = build([new Uint8Array(5)]);
  assertContentName(bytes, sha256, name);
  assert.throws(() => assertContentName(bytes.subarray(1), sha256, name), isCorrupt);
});

test("frame: reads back exactly, stored where compression does not pay", () => {
  const random = createSeededRandom("frame");
  const seal = sealOf(testKeys, { type: "pack", epoch: 1, salt: random.bytes(32) });
  const contents: [Uint8Array, "stored" | "zstd"][] = [
    [random.bytes(1), "stored"],
    [random.bytes(frameBytesMax), "stored"],
    [new Uint8Array(frameBytesMax).fill(9), "zstd"],
    [Buffer.from("all work and no play ".repeat(999)), "zstd"],
    // One 64th is what compression must save at least.
    [concatBytes([random.bytes(64_000), new Uint8Array(600)]), "stored"],
    [concatBytes([random.bytes(64_000), new Uint8Array(3000)]), "zstd"],
  ];
  for (const [frame, [plain, codec]] of contents.entries()) {
    const target = new Uint8Array(plain.length + 100).fill(0xee);
    const header = sealFrame(
      seal,
      plain,
      { frame, kind: "content", compress: true },
      { target, at: 3 },
    );
    assert.equal(header.codec, codec, `content ${frame}`);
    const end = 3 + header.sealedBytes + frameOverheadBytes;
    const sealed = target.subarray(3, end);
    assert.deepEqual(Buffer.from(openFrame(seal, header, sealed, name)), Buffer.from(plain));
    assert.ok(
      target.subarray(end).every((byte) => byte === 0xee),
      "nothing behind it",
    );
    const expected = { sealedBytes: sealed.length, plainBytes: plain.length };
    assert.equal(openFetchedFrame(seal, sealed, expected, name).length, plain.length);
    for (const wrong of [{ sealedBytes: sealed.length + 1 }, { plainBytes: plain.length + 1 }]) {
      assert.throws(
        () => openFetchedFrame(seal, sealed, { ...expected, ...wrong }, name),
        isCorrupt,
      );
    }
    assert.throws(() => openFetchedFrame(seal, sealed.subarray(0, 9), expected, name), isCorrupt);
    assert.throws(() => openFetchedFrame(seal, sealed.subarray(0, -1), expected, name), isCorrupt);
  }
});

test("frame: one that decompresses to more or less than its header says is refused", () => {
  // Only a writer with the key can make one; it must not harm a reader all the same.
  const random = createSeededRandom("bomb");
  const seal = sealOf(testKeys, { type: "pack", epoch: 1, salt: random.bytes(32) });
  const plain = new Uint8Array(frameBytesMax);
  const target = new Uint8Array(frameBytesMax + 100);
  const header = sealFrame(
    seal,
    plain,
    { frame: 0, kind: "content", compress: true },
    { target, at: 0 },
  );
  const sealed = target.subarray(0, header.sealedBytes + frameOverheadBytes);
  for (const plainBytes of [1, 1000, frameBytesMax - 1]) {
    assert.throws(() => openFrame(seal, { ...header, plainBytes }, sealed, name), isCorrupt);
  }
});

test("frame: refuses to seal nothing, too much, or without room", () => {
  const seal = sealOf(testKeys, { type: "pack", epoch: 1, salt: new Uint8Array(32) });
  const options = { frame: 0, kind: "content", compress: false } as const;
  const target = new Uint8Array(2 * frameBytesMax);
  const assertion = { name: "AssertionError" };
  assert.throws(() => sealFrame(seal, new Uint8Array(0), options, { target, at: 0 }), assertion);
  const large = new Uint8Array(frameBytesMax + 1);
  assert.throws(() => sealFrame(seal, large, options, { target, at: 0 }), assertion);
  const small = new Uint8Array(100);
  const place = { target: new Uint8Array(131), at: 0 };
  assert.throws(() => sealFrame(seal, small, options, place), assertion);
});

test("container: one that would unpack to more than any object of ours is refused before memory runs out", () => {
  const frame = new Uint8Array(frameBytesMax);
  const most = Array.from({ length: containerPlainBytesMax / frameBytesMax }, () => frame);
  const bomb = build([...most, frame.subarray(0, 1)], { type: "pack", footer: frame });
  assert.ok(bomb.bytes.byteLength < frameBytesMax, "it is small in the store");
  const object = { name, bytes: bomb.bytes, type: "pack" } as const;
  assert.throws(() => openContainer(testKeys, object), isCorrupt);
  const { footer } = openContainer(testKeys, object, { footerOnly: true });
  assert.equal(footer.byteLength, frameBytesMax);
});
