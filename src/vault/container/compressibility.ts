/**
 * Tells cheaply what is not worth compressing: ciphertext, media, archives.
 *
 * A try with zstd on 16 KiB costs a new compression context, which is slower than this and stays
 * in memory until the next collection. The entropy of sampled bytes misses only content that
 * repeats itself while its bytes look random; such content is stored as it is, which is right too.
 */
const sampleRuns = 16;
const sampleRunBytes = 256;
const sampleBytes = sampleRuns * sampleRunBytes;
/** Of 4,096 random bytes the sample's entropy is 7.955 bits; above this no compressor gains 2 %. */
const entropyBitsMax = 7.84;
const counts = new Uint16Array(256);
/** n × log2(n), for summing an entropy without logarithms. */
const countLogs = Float64Array.from({ length: sampleBytes + 1 }, (_, n) =>
  n === 0 ? 0 : n * Math.log2(n),
);

/** Whether `block` looks worth compressing; short blocks always do. */
export function isCompressible(block: Uint8Array): boolean {
  if (block.byteLength < 2 * sampleBytes) return true;
  counts.fill(0);
  const step = Math.floor((block.byteLength - sampleRunBytes) / (sampleRuns - 1));
  for (let run = 0; run < sampleRuns; run++) {
    const start = run * step;
    for (let at = start; at < start + sampleRunBytes; at++) {
      const byte = block[at] as number;
      counts[byte] = (counts[byte] as number) + 1;
    }
  }
  let sum = 0;
  for (const count of counts) sum += countLogs[count] as number;
  return Math.log2(sampleBytes) - sum / sampleBytes < entropyBitsMax;
}
