/**
 * The grammar of object names, which every store driver enforces: whatever a name is built from, it
 * cannot leave the store or reach a driver's own files.
 */
import { KluisError } from "#base/kluis-error.ts";

/** Longest name of an object, in characters. */
export const objectNameCharsMax = 200;

/** The first segment that drivers keep for unfinished work; never part of an object's name. */
export const reservedSegment = "tmp";

const segmentPattern = /^[a-z0-9_-][a-z0-9._-]*$/;

/** Whether `name` is `segment/segment…` of `[a-z0-9._-]`, no segment starting with a dot. */
export function isObjectName(name: string): boolean {
  if (name.length > objectNameCharsMax) return false;
  const segments = name.split("/");
  if (segments[0] === reservedSegment) return false;
  return segments.every((segment) => segmentPattern.test(segment));
}

/** Throws ArgumentInvalid (after-change) unless `name` is the name of an object. */
export function assertObjectName(name: string): void {
  if (isObjectName(name)) return;
  throw new KluisError(
    "ArgumentInvalid",
    `Cannot use object name ${quote(name)}: it is out of form`,
  );
}

/** Throws ArgumentInvalid (after-change) unless `prefix` is empty or names a folder and ends in `/`. */
export function assertObjectPrefix(prefix: string): void {
  if (prefix === "" || (prefix.endsWith("/") && isObjectName(prefix.slice(0, -1)))) return;
  throw new KluisError(
    "ArgumentInvalid",
    `Cannot list objects of ${quote(prefix)}: the prefix is out of form`,
  );
}

/** A name in quotes, cut and escaped, so that a hostile one cannot garble a message. */
function quote(name: string): string {
  return JSON.stringify(name.slice(0, objectNameCharsMax));
}
