/** The header that says which bytes an answer holds; internal to this folder. */
import { RequestFailure } from "./blob-service.ts";

/** `bytes 5-9/200` → the place of the bytes; `undefined` where there is no such header. */
export function parseContentRange(
  header: string | undefined,
): { readonly offsetBytes: number; readonly sizeBytes: number } | undefined {
  if (header === undefined) return undefined;
  const match = /^bytes (\d{1,15})-\d{1,15}\/(\d{1,15})$/.exec(header.trim());
  if (match === null) throw new RequestFailure("unavailable", "the answer names no range");
  return { offsetBytes: Number(match[1]), sizeBytes: Number(match[2]) };
}
