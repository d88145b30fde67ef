/** The INI files of the script framework, as Python's ConfigParser reads them. */

/**
 * Keys in lower case and values of one section; `undefined` where there is no such section or a line
 * is none of an INI file.
 */
export function parseIniSection(
  text: string,
  section: string,
): ReadonlyMap<string, string> | undefined {
  let current: string | undefined;
  let found: Map<string, string> | undefined;
  for (const raw of text.split(/\r?\n/)) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#") || line.startsWith(";")) continue;
    const head = /^\[([^\]]+)\]$/.exec(line);
    if (head !== null) {
      current = head[1];
      if (current === section) found ??= new Map();
      continue;
    }
    const member = /^([^:=]+?)\s*[:=]\s*(.*)$/.exec(line);
    if (member === null || current === undefined) return undefined;
    if (current === section) found?.set((member[1] ?? "").toLowerCase(), member[2] ?? "");
  }
  return found;
}
