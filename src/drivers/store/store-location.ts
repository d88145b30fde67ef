/** Where a store is, as a user writes it. */
import { isAbsolute, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { KluisError } from "#base/kluis-error.ts";

/** A folder. */
export interface FileLocation {
  readonly kind: "file";
  /** Absolute. */
  readonly path: string;
}

/** What the locations of both kinds of object store have. */
interface CloudLocation {
  /** As the user may read it: no secret, and equal for equal places. */
  readonly text: string;
  /** What all keys start with: empty, or ends in `/`. */
  readonly prefix: string;
  /** Where the service is, where it is not its vendor's: an http(s) URL. */
  readonly endpoint: string | undefined;
  /** Absolute path of a file with credentials. */
  readonly credentialsFile: string | undefined;
}

/** A bucket of S3, or a part of it. */
export interface S3Location extends CloudLocation {
  readonly kind: "s3";
  readonly bucket: string;
  readonly region: string | undefined;
  readonly profile: string | undefined;
  /** `undefined`: as the endpoint suggests. */
  readonly isPathStyle: boolean | undefined;
  /**
   * Only where this is the locked place of a WORM store: its control place, `"none"` where that is
   * gone.
   */
  readonly control?: S3Location | "none";
}

/** A container of Azure Blob Storage, or a part of it. */
export interface AzureLocation extends CloudLocation {
  readonly kind: "azblob";
  readonly account: string;
  readonly container: string;
}

/** A place of a kind that this version has a driver for. */
export type StoreLocation = FileLocation | S3Location | AzureLocation;

/** Longest prefix: with the longest name of an object it is within the 1,024 bytes of a key. */
const prefixCharsMax = 500;
const schemePattern = /^([a-z][a-z0-9+.-]*):\/\//i;
/** Authority, path, query. Nothing of these kinds has a fragment. */
const partsPattern = /^[^:]+:\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/;
const bucketPattern = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;
const containerPattern = /^(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$/;
const accountPattern = /^[a-z0-9]{3,24}$/;
const prefixSegmentPattern = /^(?!\.{1,2}$)[A-Za-z0-9._!'()@=+,-]+$/;
const wordPattern = /^[A-Za-z0-9._@ -]{1,100}$/;

/**
 * Parses a path (relative to `workingFolder`), `file:///srv/backup`, `s3://bucket/prefix?…` or
 * `azblob://account/container/prefix?…`; the parameters are those of docs/adr/0007-cloud-stores.md.
 *
 * Errors: ArgumentInvalid (after-change); the message holds neither query nor user name.
 */
export function parseStoreLocation(text: string, workingFolder: string): StoreLocation {
  if (text === "") throw invalid(text, "it is empty");
  if (text.includes("\0")) throw invalid(text, "it holds a zero byte");
  const scheme = schemePattern.exec(text)?.[1]?.toLowerCase();
  if (scheme === undefined) return { kind: "file", path: resolve(workingFolder, text) };
  if (scheme === "file") return { kind: "file", path: resolve(pathOfUrl(text)) };
  if (scheme === "s3") return parseS3(text, workingFolder);
  if (scheme === "azblob") return parseAzure(text, workingFolder);
  throw invalid(text, `stores of kind "${scheme}" are not known`);
}

function pathOfUrl(text: string): string {
  if (!URL.canParse(text)) throw invalid(text, "it is no URL");
  const url = new URL(text);
  if (url.host !== "") throw invalid(text, "a file URL names no host: write file:///folder");
  if (url.search !== "" || url.hash !== "") {
    throw invalid(text, "a file URL has no query and no fragment");
  }
  try {
    return fileURLToPath(url);
  } catch (error) {
    throw invalid(text, "its path is out of form", error);
  }
}

function parseS3(text: string, workingFolder: string): S3Location {
  const { authority, path, query } = splitUrl(text);
  if (!bucketPattern.test(authority)) throw invalid(text, "that is no name of a bucket");
  const prefix = parsePrefix(text, path);
  const parameters = parseQuery(text, query, [
    "endpoint",
    "region",
    "profile",
    "path-style",
    "credentials",
    "control",
  ]);
  const pathStyle = parameters.get("path-style");
  if (pathStyle !== undefined && pathStyle !== "true" && pathStyle !== "false") {
    throw invalid(text, "path-style is true or false");
  }
  const endpoint = parseEndpoint(text, parameters.get("endpoint"));
  const place: S3Location = {
    kind: "s3",
    text: showUrl(`s3://${authority}/${prefix}`, { endpoint }),
    bucket: authority,
    prefix,
    endpoint,
    region: parseWord(text, "region", parameters.get("region")),
    profile: parseWord(text, "profile", parameters.get("profile")),
    isPathStyle: pathStyle === undefined ? undefined : pathStyle === "true",
    credentialsFile: parseFile(text, parameters.get("credentials"), workingFolder),
  };
  const control = parameters.get("control");
  return control === undefined ? place : withControl(place, { text, control });
}

/** The control place of a WORM store: another bucket of the same service, with the same credentials. */
function withControl(
  place: S3Location,
  { text, control }: { readonly text: string; readonly control: string },
): S3Location {
  const shown = `${place.text}${place.endpoint === undefined ? "?" : "&"}control=${control}`;
  if (control === "none") return { ...place, text: shown, control };
  const isPlain = /^s3:\/\/[^?#]*$/i.test(control);
  const parts = isPlain ? splitUrl(control) : undefined;
  if (parts === undefined || !bucketPattern.test(parts.authority)) {
    throw invalid(text, "its control is neither s3://BUCKET/PREFIX nor none");
  }
  if (parts.authority === place.bucket) {
    throw invalid(text, "its control must be another bucket, without object lock");
  }
  const prefix = parsePrefix(text, parts.path);
  const { endpoint } = place;
  const location = {
    ...place,
    text: showUrl(`s3://${parts.authority}/${prefix}`, { endpoint }),
    bucket: parts.authority,
    prefix,
  };
  return { ...place, text: shown, control: location };
}

function parseAzure(text: string, workingFolder: string): AzureLocation {
  const { authority, path, query } = splitUrl(text);
  if (!accountPattern.test(authority)) throw invalid(text, "that is no name of an account");
  const [container = "", ...rest] = path.split("/");
  if (!containerPattern.test(container)) {
    throw invalid(text, "that is no name of a container: write azblob://ACCOUNT/CONTAINER/PREFIX");
  }
  const prefix = parsePrefix(text, rest.join("/"));
  const parameters = parseQuery(text, query, ["endpoint", "credentials"]);
  const endpoint = parseEndpoint(text, parameters.get("endpoint"));
  return {
    kind: "azblob",
    text: showUrl(`azblob://${authority}/${container}/${prefix}`, { endpoint }),
    account: authority,
    container,
    prefix,
    endpoint,
    credentialsFile: parseFile(text, parameters.get("credentials"), workingFolder),
  };
}

function splitUrl(text: string): { authority: string; path: string; query: string } {
  const match = partsPattern.exec(text);
  if (match === null) throw invalid(text, "it is out of form");
  const [, authority = "", path = "", query = ""] = match;
  if (authority.includes("@")) {
    throw invalid(text, "no user name or key may stand in it; use the environment or credentials=");
  }
  return { authority, path, query };
}

function parsePrefix(text: string, path: string): string {
  const plain = path.replace(/\/$/, "");
  if (plain === "") return "";
  const isGood = plain.split("/").every((segment) => prefixSegmentPattern.test(segment));
  if (!isGood || plain.length > prefixCharsMax) throw invalid(text, "its prefix is out of form");
  return `${plain}/`;
}

function parseQuery(
  text: string,
  query: string,
  known: readonly string[],
): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const [name, value] of new URLSearchParams(query)) {
    if (name === "sig" || name === "sv") {
      throw invalid(
        text,
        "no SAS token may stand in it; use AZURE_STORAGE_SAS_TOKEN or credentials=",
      );
    }
    if (!known.includes(name)) throw invalid(text, `it takes only ${known.join(", ")}`);
    if (found.has(name) || value === "") throw invalid(text, `${name} must stand in it once`);
    found.set(name, value);
  }
  return found;
}

function parseEndpoint(text: string, endpoint: string | undefined): string | undefined {
  if (endpoint === undefined) return undefined;
  if (!URL.canParse(endpoint)) throw invalid(text, "its endpoint is no URL");
  const url = new URL(endpoint);
  if (url.protocol !== "https:" && url.protocol !== "http:") {
    throw invalid(text, "its endpoint is no http or https URL");
  }
  if (url.username !== "" || url.password !== "" || url.search !== "" || url.hash !== "") {
    throw invalid(text, "its endpoint may hold neither user name nor query");
  }
  return url.href.replace(/\/$/, "");
}

function parseWord(text: string, name: string, value: string | undefined): string | undefined {
  if (value === undefined || wordPattern.test(value)) return value;
  throw invalid(text, `its ${name} is out of form`);
}

function parseFile(
  text: string,
  path: string | undefined,
  workingFolder: string,
): string | undefined {
  if (path === undefined) return undefined;
  if (path.includes("\0")) throw invalid(text, "credentials names no file");
  return isAbsolute(path) ? path : resolve(workingFolder, path);
}

function showUrl(place: string, parameters: { readonly endpoint: string | undefined }): string {
  const { endpoint } = parameters;
  const plain = place.replace(/\/$/, "");
  return endpoint === undefined ? plain : `${plain}?endpoint=${endpoint}`;
}

/** Of a URL only what can be no secret is repeated. */
function invalid(text: string, reason: string, cause?: unknown): KluisError {
  const isUrl = schemePattern.test(text);
  const shown = isUrl ? text.replace(/[?#].*$/s, "?…").replace(/:\/\/[^/]*@/, "://…@") : text;
  const quoted = JSON.stringify(shown.slice(0, 300));
  return new KluisError("ArgumentInvalid", `Cannot use ${quoted} as a store: ${reason}`, { cause });
}
