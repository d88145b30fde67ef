/**
 * What a disk of a guest must hold, by a program that shares nothing with Kluis: each job of fio runs
 * in the guest and, with the same seed, on a file of the host.
 */
import { readFile, truncate, writeFile } from "node:fs/promises";

import { pageBytes } from "#formats/geometry.ts";
import { planFio } from "../../../lab/plan-fio.ts";
import { readTool } from "../../../lab/tools.ts";

/** The content of one disk, with what may be there instead where a machine died over a write. */
export class DiskModel {
  readonly #path: string;
  #content: Buffer;
  /** What a page may hold beside its content, by the page's number. */
  readonly #others = new Map<number, Buffer[]>();

  private constructor(path: string, content: Buffer) {
    this.#path = path;
    this.#content = content;
  }

  /** Starts from what the disk holds; `path` is a file of the model's own. */
  static async create(path: string, content: Buffer): Promise<DiskModel> {
    await writeFile(path, content);
    return new DiskModel(path, content);
  }

  get sizeBytes(): number {
    return this.#content.byteLength;
  }

  /** Runs a job that the guest has finished, or one of which nobody knows how far it came. Returns its pages. */
  async write(job: readonly string[], end: "durable" | "unknown"): Promise<readonly number[]> {
    await readTool("fio", planFio(this.#path, job));
    return this.#replace(await readFile(this.#path), end);
  }

  /** Zeros, or what was there: a device may leave a discarded page alone. Returns the pages. */
  async discard(range: {
    readonly offsetBytes: number;
    readonly lengthBytes: number;
  }): Promise<readonly number[]> {
    const { offsetBytes, lengthBytes } = range;
    const after = Buffer.from(this.#content);
    after.fill(0, offsetBytes, offsetBytes + lengthBytes);
    this.#replace(after, "unknown");
    await writeFile(this.#path, after);
    const first = offsetBytes / pageBytes;
    return Array.from({ length: lengthBytes / pageBytes }, (_, index) => first + index);
  }

  /** The disk has grown by zeros, or lost its end. */
  async resize(sizeBytes: number): Promise<void> {
    await truncate(this.#path, sizeBytes);
    this.#content = await readFile(this.#path);
  }

  /**
   * Compares with what a disk held, and goes on from that. Returns the first byte of a page that holds
   * what it cannot hold; `undefined` where there is none.
   */
  async settle(found: Buffer): Promise<number | undefined> {
    const wrong = this.#findWrong(found);
    this.#others.clear();
    this.#content = found;
    await writeFile(this.#path, found);
    return wrong;
  }

  #findWrong(found: Buffer): number | undefined {
    if (found.byteLength !== this.sizeBytes) return Math.min(found.byteLength, this.sizeBytes);
    return findPages(found, this.#content).find((page) => {
      const there = pageOf(found, page);
      return this.#others.get(page)?.some((other) => other.equals(there)) !== true;
    });
  }

  #replace(after: Buffer, end: "durable" | "unknown"): readonly number[] {
    const pages = findPages(this.#content, after);
    for (const page of pages) {
      if (end === "durable") this.#others.delete(page);
      else {
        const others = this.#others.get(page) ?? [];
        this.#others.set(page, [...others, pageOf(this.#content, page)]);
      }
    }
    this.#content = after;
    return pages;
  }
}

/** Numbers of the pages in which two contents differ; what one alone has counts. */
export function findPages(a: Buffer, b: Buffer): readonly number[] {
  const pages: number[] = [];
  const sizeBytes = Math.max(a.byteLength, b.byteLength);
  for (let at = 0; at < sizeBytes; at += runBytes) {
    if (a.subarray(at, at + runBytes).equals(b.subarray(at, at + runBytes))) continue;
    for (let inner = at; inner < Math.min(sizeBytes, at + runBytes); inner += pageBytes) {
      const page = inner / pageBytes;
      if (!pageOf(a, page).equals(pageOf(b, page))) pages.push(page);
    }
  }
  return pages;
}

/** Compared as a whole first, because most of it is equal. */
const runBytes = 64 * pageBytes;

function pageOf(content: Buffer, page: number): Buffer {
  return content.subarray(page * pageBytes, (page + 1) * pageBytes);
}
