/** What lies below a stream of node:zlib: it works at once and in the memory it is given. Not documented by Node. */
import { constants } from "node:zlib";

/** Of a stream that compresses or decompresses by zstd. */
export interface ZstdEngine {
  readonly _handle: {
    writeSync(
      flush: number,
      input: Uint8Array,
      inputAt: number,
      inputBytes: number,
      output: Uint8Array,
      outputAt: number,
      outputBytes: number,
    ): void;
    /** Told of a failure; a stream's own would end it by an event that nobody hears. */
    onerror: () => void;
  };
  /** What the last call that did not fail left of its output and of its input, in bytes. */
  readonly _writeState: Uint32Array;
}

/** No count of bytes: stands until a call succeeds. */
const failed = 0xffff_ffff;

/** What lies below `stream`; `undefined` where this Node has it no longer. */
export function engineOf(stream: object): ZstdEngine | undefined {
  const { _handle: handle, _writeState: state } = stream as Partial<ZstdEngine>;
  if (typeof handle?.writeSync !== "function" || !(state instanceof Uint32Array)) return undefined;
  handle.onerror = (): void => {};
  return stream as ZstdEngine;
}

/** Runs all of `input` through it into `output`. Returns how many bytes of that are left, or -1 where it failed. */
export function runEngine(engine: ZstdEngine, input: Uint8Array, output: Uint8Array): number {
  const { _handle: handle, _writeState: state } = engine;
  const [inputBytes, outputBytes] = [input.byteLength, output.byteLength];
  state.fill(failed);
  handle.writeSync(constants.ZSTD_e_end, input, 0, inputBytes, output, 0, outputBytes);
  const [outputLeft = failed, inputLeft = failed] = state;
  return inputLeft === 0 && outputLeft !== failed ? outputLeft : -1;
}
