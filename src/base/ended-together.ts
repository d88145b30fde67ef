/** Things that are used together and do not need each other to end. */
import { allEnded } from "#base/all-ended.ts";

/** As AsyncDisposableStack, but ends all at once; its end throws the error of the first that was used. */
export class EndedTogether implements AsyncDisposable {
  readonly #parts: AsyncDisposable[] = [];

  /** Takes over the end of `part`. */
  use(part: AsyncDisposable): void {
    this.#parts.push(part);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await allEnded(this.#parts.map(async (part) => await part[Symbol.asyncDispose]()));
  }
}
