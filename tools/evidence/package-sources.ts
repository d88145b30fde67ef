/** Picks the distribution's own package sources out of all that a machine has. */

/** Fields of one source in the form of deb822. */
type Stanza = ReadonlyMap<string, string>;

/**
 * The sources among `texts` (files of either of apt's forms) all of whose suites belong to the
 * release `codename`, as one deb822 text. Sources of third parties are left out.
 */
export function selectSources(texts: readonly string[], codename: string): string {
  return texts
    .flatMap((text) => [...parseStanzas(text), ...parseLines(text)])
    .filter((stanza) => isOfRelease(stanza, codename))
    .map((stanza) => [...stanza].map(([key, value]) => `${key}: ${value}\n`).join(""))
    .join("\n");
}

function isOfRelease(stanza: Stanza, codename: string): boolean {
  const suites = (stanza.get("Suites") ?? "").split(/\s+/);
  const isOff = stanza.get("Enabled") === "no";
  return !isOff && suites.every((suite) => suite === codename || suite.startsWith(`${codename}-`));
}

function parseStanzas(text: string): readonly Stanza[] {
  return text
    .replace(/^#.*\n/gm, "")
    .split(/\n\s*\n/)
    .map(
      (block) =>
        new Map(
          [...block.matchAll(/^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)/gm)].map((match) => [
            match[1] ?? "",
            (match[2] ?? "").trim(),
          ]),
        ),
    )
    .filter((stanza) => stanza.has("Suites"));
}

function parseLines(text: string): readonly Stanza[] {
  const line = /^(deb)\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)$/gm;
  return [...text.matchAll(line)].map(
    ([, type = "", options = "", uri = "", suite = "", rest = ""]) => {
      const stanza = new Map([
        ["Types", type],
        ["URIs", uri],
        ["Suites", suite],
        ["Components", rest.replace(/#.*/, "").trim()],
      ]);
      const signedBy = /\bsigned-by=(\S+)/i.exec(options)?.[1];
      if (signedBy !== undefined) stanza.set("Signed-By", signedBy);
      return stanza;
    },
  );
}
