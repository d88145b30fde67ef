/** Writes the pages of docs/reference that are made from data: `node scripts/reference.ts`. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

import { referencePages } from "../tools/reference/pages.ts";
import { repositoryRoot } from "../tools/tidy/source-files.ts";

for (const page of referencePages()) {
  const path = join(repositoryRoot, page.path);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, page.text);
  console.log(`wrote ${page.path}`);
}
