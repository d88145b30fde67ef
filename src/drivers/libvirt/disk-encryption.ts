/** How a domain's XML says that a disk is encrypted, and by which secret of libvirt. Internal to this folder. */
import { attributeOf, childOf, quoteXml, type XmlElement } from "./xml.ts";

/** What a disk's XML says: nothing, a secret that opens it, or why Kluis cannot use it. */
export type DiskEncryption =
  | { readonly kind: "none" }
  | { readonly kind: "luks"; readonly secretId: string }
  | { readonly kind: "refused"; readonly reason: string };

/** Reads it; older XML has the element below the disk instead of its source. */
export function readEncryption(disk: XmlElement): DiskEncryption {
  const source = childOf(disk, "source");
  const element = childOf(source, "encryption") ?? childOf(disk, "encryption");
  if (element === undefined) return { kind: "none" };
  const format = attributeOf(element, "format") ?? "";
  const engine = attributeOf(element, "engine") ?? "qemu";
  if (format !== "luks" || engine !== "qemu") {
    return refused(
      `it is encrypted as "${format}" by "${engine}"; layers can be so as "luks" by QEMU`,
    );
  }
  const secrets = element.children.filter(({ name }) => name === "secret");
  const [secret] = secrets;
  const type = attributeOf(secret, "type") ?? "";
  if (secrets.length !== 1 || type !== "passphrase") {
    return refused('it is encrypted, and its XML does not name one secret of type "passphrase"');
  }
  const secretId = attributeOf(secret, "uuid");
  if (secretId !== undefined) return { kind: "luks", secretId };
  return refused("it is encrypted, and its XML does not name its secret by uuid");
}

/** The element that says so of another image. */
export function encryptionXml(secretId: string): string {
  const secret = `<secret type='passphrase' uuid=${quoteXml(secretId)}/>`;
  return `<encryption format='luks'>${secret}</encryption>`;
}

function refused(reason: string): DiskEncryption {
  return { kind: "refused", reason };
}
