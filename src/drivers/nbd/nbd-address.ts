/** Where an NBD export is, and its URI. */
import { KluisError } from "#base/kluis-error.ts";

/** Port of NBD servers, by IANA. */
const NBD_PORT = 10_809;

/** An export of a server on a Unix or TCP socket. The default export has the empty name. */
export type NbdAddress =
  | { readonly transport: "unix"; readonly socketPath: string; readonly exportName: string }
  | {
      readonly transport: "tcp";
      readonly host: string;
      readonly port: number;
      readonly exportName: string;
    };

/**
 * Parses `nbd://host[:port]/export` or `nbd+unix:///export?socket=/path`.
 *
 * Errors: ArgumentInvalid (after-change); NbdUnsupported (never) for TLS and vsock.
 * Source: NBD URI specification.
 */
export function parseNbdUri(text: string): NbdAddress {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !url.protocol.startsWith("nbd")) throw invalid(text, "it is no NBD URI");
  if (url.username !== "" || url.password !== "") throw invalid(text, "NBD knows no users");
  const exportName = decode(text, url.pathname.replace(/^\//, ""));
  const socketPath = readSocketPath(text, url.search);
  switch (url.protocol) {
    case "nbd:": {
      if (url.hostname === "") throw invalid(text, "it names no host");
      if (socketPath !== undefined) throw invalid(text, "only nbd+unix takes a socket");
      const host = decode(text, url.hostname).replace(/^\[(.*)\]$/, "$1");
      const port = url.port === "" ? NBD_PORT : Number(url.port);
      return { transport: "tcp", host, port, exportName };
    }
    case "nbd+unix:": {
      if (url.host !== "") throw invalid(text, "nbd+unix takes no host; write three slashes");
      if (socketPath === undefined) throw invalid(text, "it names no socket (?socket=/path)");
      return { transport: "unix", socketPath, exportName };
    }
    default: {
      const scheme = url.protocol.slice(0, -1);
      throw new KluisError("NbdUnsupported", `Cannot use "${text}": "${scheme}" is not supported`);
    }
  }
}

/** Whether `text` is meant as an NBD URI. */
export function isNbdUri(text: string): boolean {
  return /^nbds?(\+[a-z]+)?:/.test(text);
}

/** The URI of an address. */
export function formatNbdUri(address: NbdAddress): string {
  const name = address.exportName.split("/").map(encodeURIComponent).join("/");
  if (address.transport === "unix") {
    const path = address.socketPath.split("/").map(encodeURIComponent).join("/");
    return `nbd+unix:///${name}?socket=${path}`;
  }
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  const port = address.port === NBD_PORT ? "" : `:${String(address.port)}`;
  return `nbd://${host}${port}/${name}`;
}

function readSocketPath(text: string, search: string): string | undefined {
  // Not URLSearchParams: that is for forms, where "+" means a blank.
  let socketPath: string | undefined;
  for (const pair of search.replace(/^\?/, "").split("&")) {
    const [key, ...value] = pair.split("=");
    if (key === "socket" && value.length > 0) socketPath = decode(text, value.join("="));
    else if (key !== "") throw invalid(text, `"${key ?? ""}" is not supported`);
  }
  return socketPath;
}

function decode(text: string, part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw invalid(text, "its percent-encoding is wrong");
  }
}

function invalid(text: string, reason: string): KluisError {
  return new KluisError("ArgumentInvalid", `Cannot use "${text}": ${reason}`);
}
