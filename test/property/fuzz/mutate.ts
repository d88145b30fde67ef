/** Damage with a plan: changes of bytes that know what fields, counts and texts look like. */
import type { Prng } from "#testing/seed.ts";

/** Most bytes of a mutated input; parsers have limits of their own, far below or near it. */
const inputBytesMax = 256 * 1024;
/** Most changes of one input. */
const changesMax = 4;

/** Numbers at which bounds are wrong by one. */
const powers = [8, 12, 16, 18, 20, 26, 31, 32, 40, 52, 53].map((bits) => 2 ** bits);
const numbers = [
  ...powers.flatMap((power) => [power - 1, power]),
  ...Array.from({ length: 130 }, (_, at) => at),
  1_114_112,
  1_114_113,
];

/** Pieces that texts are read wrong at. */
const values = 'null true [] {} "" -0 -1 1e9 1e400 1.5 9007199254740993 "__proto__":{} [[[[ {"":';
const segments = "../ / // ./ . .. - %2e \0 \n \u{FEFF} \u0130 \u017F \u212A \xFF\xFE \xC3\x28";
const texts = [...values.split(" "), ...segments.split(" "), " "];

type Change = (bytes: Uint8Array, prng: Prng, others: readonly Uint8Array[]) => Uint8Array;

const byteChanges: readonly Change[] = [
  flipBit,
  setByte,
  setNumber,
  insertVarint,
  removeRange,
  insertRange,
  repeatRange,
  swapRanges,
  cut,
  lengthen,
  splice,
];
const textChanges: readonly Change[] = [insertText, changeDigits, repeatText, removeRange, splice];

/**
 * `input`, or one of `others` mixed into it, with one to four changes.
 *
 * @param others Valid inputs of the same parser; none is changed.
 */
export function mutate(
  input: Uint8Array,
  prng: Prng,
  options: { readonly others: readonly Uint8Array[]; readonly isText: boolean },
): Uint8Array {
  let bytes: Uint8Array = input.slice();
  for (let left = 1 + prng.below(changesMax); left > 0; left--) {
    const changes = options.isText && prng.below(2) === 0 ? textChanges : byteChanges;
    const change = changes[prng.below(changes.length)] ?? flipBit;
    bytes = change(bytes, prng, options.others).subarray(0, inputBytesMax);
  }
  return bytes;
}

function place(bytes: Uint8Array, prng: Prng): number {
  // The start, where heads and counts are, as often as all the rest.
  const end = bytes.byteLength + 1;
  return prng.below(prng.below(2) === 0 ? Math.min(end, 96) : end);
}

function replaceRange(bytes: Uint8Array, at: number, gone: number, by: Uint8Array): Uint8Array {
  const after = Math.min(bytes.byteLength, at + gone);
  const changed = new Uint8Array(at + by.byteLength + bytes.byteLength - after);
  changed.set(bytes.subarray(0, at));
  changed.set(by, at);
  changed.set(bytes.subarray(after), at + by.byteLength);
  return changed;
}

/** Writes over what is there, as far as it goes. */
function overwrite(bytes: Uint8Array, at: number, by: Uint8Array): Uint8Array {
  const room = bytes.subarray(at);
  room.set(by.subarray(0, room.byteLength));
  return bytes;
}

function flipBit(bytes: Uint8Array, prng: Prng): Uint8Array {
  const at = Math.min(place(bytes, prng), bytes.byteLength - 1);
  if (at >= 0) bytes[at] = (bytes[at] ?? 0) ^ (1 << prng.below(8));
  return bytes;
}

function setByte(bytes: Uint8Array, prng: Prng): Uint8Array {
  return overwrite(bytes, place(bytes, prng), Uint8Array.of(pick(numbers, prng) % 256));
}

function setNumber(bytes: Uint8Array, prng: Prng): Uint8Array {
  const field = Buffer.alloc(8);
  const value = BigInt(pick(numbers, prng));
  if (prng.below(2) === 0) field.writeBigUInt64LE(value);
  else field.writeBigUInt64BE(BigInt.asUintN(64, value << BigInt(8 * prng.below(5))));
  const width = pick([2, 4, 8], prng);
  return overwrite(bytes, place(bytes, prng), field.subarray(0, width));
}

/** A number of at most 9 bytes of LEB128, one more than any may have, sometimes not its shortest. */
function insertVarint(bytes: Uint8Array, prng: Prng): Uint8Array {
  const digits: number[] = [];
  let rest = pick(numbers, prng);
  do {
    digits.push((rest % 128) | 128);
    rest = Math.floor(rest / 128);
  } while (rest > 0);
  while (digits.length < 9 && prng.below(4) === 0) digits.push(128);
  digits.push((digits.pop() ?? 0) & 127);
  return replaceRange(bytes, place(bytes, prng), prng.below(4), Uint8Array.from(digits));
}

function removeRange(bytes: Uint8Array, prng: Prng): Uint8Array {
  return replaceRange(bytes, place(bytes, prng), 1 + prng.below(40), new Uint8Array(0));
}

function insertRange(bytes: Uint8Array, prng: Prng): Uint8Array {
  const length = 1 + prng.below(40);
  const room = prng.below(2) === 0 ? new Uint8Array(length) : prng.bytes(length);
  return replaceRange(bytes, place(bytes, prng), 0, room);
}

function repeatRange(bytes: Uint8Array, prng: Prng): Uint8Array {
  const at = place(bytes, prng);
  const part = bytes.slice(at, at + 1 + prng.below(100));
  return replaceRange(bytes, at, 0, part);
}

function swapRanges(bytes: Uint8Array, prng: Prng): Uint8Array {
  const [a, b] = [place(bytes, prng), place(bytes, prng)];
  const length = 1 + prng.below(32);
  const part = bytes.slice(a, a + length);
  overwrite(bytes, a, bytes.slice(b, b + length));
  return overwrite(bytes, b, part);
}

function cut(bytes: Uint8Array, prng: Prng): Uint8Array {
  return bytes.slice(0, place(bytes, prng));
}

function lengthen(bytes: Uint8Array, prng: Prng): Uint8Array {
  return replaceRange(bytes, bytes.byteLength, 0, prng.bytes(1 + prng.below(64)));
}

function splice(bytes: Uint8Array, prng: Prng, others: readonly Uint8Array[]): Uint8Array {
  const other = others[prng.below(Math.max(1, others.length))] ?? bytes;
  const from = place(other, prng);
  const part = other.slice(from, from + 1 + prng.below(200));
  return replaceRange(bytes, place(bytes, prng), prng.below(200), part);
}

function insertText(bytes: Uint8Array, prng: Prng): Uint8Array {
  const text = Buffer.from(pick(texts, prng), prng.below(2) === 0 ? "utf8" : "latin1");
  return replaceRange(bytes, place(bytes, prng), prng.below(3), text);
}

/** Other digits in the place of a number, or of anything that starts where none is. */
function changeDigits(bytes: Uint8Array, prng: Prng): Uint8Array {
  const start = place(bytes, prng);
  let at = start;
  while (at < bytes.byteLength && !isDigit(bytes[at])) at++;
  let end = at;
  while (end < bytes.byteLength && isDigit(bytes[end])) end++;
  return replaceRange(bytes, at, end - at, Buffer.from(String(pick(numbers, prng))));
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39;
}

/** Some thousand brackets or blanks, which a parser must not recurse or crawl on. */
function repeatText(bytes: Uint8Array, prng: Prng): Uint8Array {
  const text = pick(['{"a":', "[", '"', " ", "-", "0", "/"], prng);
  const times = prng.below(20) === 0 ? 20_000 : prng.below(50);
  return replaceRange(bytes, place(bytes, prng), 0, Buffer.from(text.repeat(times)));
}

function pick<T>(choices: readonly T[], prng: Prng): T {
  const [first] = choices;
  return choices[prng.below(choices.length)] ?? (first as T);
}
