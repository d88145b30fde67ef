/** A line that is typed on a terminal without echo: what the terminal would do with its keys; pure. */

const keys = {
  interrupt: 0x03,
  end: 0x04,
  erase: 0x08,
  newLine: 0x0a,
  return: 0x0d,
  kill: 0x15,
  delete: 0x7f,
};

/** How a line stands after some keys. */
export type LineState = "open" | "done" | "interrupted" | "too long";

/** Takes bytes as a terminal in raw mode gives them. Ctrl-C, Ctrl-D, Ctrl-U and backspace do what they always do. */
export class TypedLine {
  readonly #bytesMax: number;
  #bytes: number[] = [];

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** What was typed, in UTF-8, without the end of the line. */
  get bytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }

  /** Takes what was typed; once the line is no longer open the rest is left out. */
  take(chunk: Uint8Array): LineState {
    for (const byte of chunk) {
      if (byte === keys.interrupt) return "interrupted";
      if (byte === keys.newLine || byte === keys.return) return "done";
      if (byte === keys.end) {
        if (this.#bytes.length === 0) return "done";
      } else if (byte === keys.erase || byte === keys.delete) this.#erase();
      else if (byte === keys.kill) this.#bytes = [];
      else this.#bytes.push(byte);
      if (this.#bytes.length > this.#bytesMax) return "too long";
    }
    return "open";
  }

  /** One character: in UTF-8 all bytes but its first begin with the bits 10. */
  #erase(): void {
    let last = this.#bytes.pop();
    while (last !== undefined && (last & 0xc0) === 0x80) last = this.#bytes.pop();
  }
}
