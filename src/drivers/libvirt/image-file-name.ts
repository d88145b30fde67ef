/** Names that QEMU gives to open images. Internal to this folder. */
import { isObject } from "#formats/qmp-wire.ts";

const JSON_PREFIX = "json:";

/** The file behind a name: JSON where the image was opened by more than a path, as an encrypted one is. */
export function toFilePath(name: string): string {
  if (!name.startsWith(JSON_PREFIX)) return name;
  let image: unknown = JSON.parse(name.slice(JSON_PREFIX.length));
  while (isObject(image)) {
    if (typeof image["filename"] === "string") return image["filename"];
    image = image["file"];
  }
  return name;
}
