import assert from "node:assert/strict";
import { test } from "node:test";

import { selectSources } from "./package-sources.ts";

const debian = `# a comment
Types: deb
# another
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.example/debian-security
Suites: bookworm-security
Components: main
`;
const thirdParty = `Types: deb
URIs: https://node.example/node_20.x
Suites: nodistro
Components: main
`;

test("package sources: keeps the release's own and leaves third parties out", () => {
  const text = selectSources(
    [debian, thirdParty, "deb https://x.example cloud-bookworm main\n"],
    "bookworm",
  );
  assert.equal(text.match(/^Types: deb$/gm)?.length, 2);
  assert.ok(text.includes("URIs: http://deb.example/debian-security"));
  assert.ok(text.includes("Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg"));
  assert.ok(!text.includes("node.example") && !text.includes("x.example") && !text.includes("#"));
});

test("package sources: reads the form of one line, but no deb-src and nothing switched off", () => {
  const lines = [
    "deb [arch=amd64 signed-by=/k.gpg] http://u.example/ubuntu jammy main universe # all",
    "deb-src http://u.example/ubuntu jammy main",
    "# deb http://u.example/ubuntu jammy-backports main",
  ].join("\n");
  assert.equal(
    selectSources([lines, debian.replace("Types", "Enabled: no\nTypes")], "jammy"),
    "Types: deb\nURIs: http://u.example/ubuntu\nSuites: jammy\nComponents: main universe\nSigned-By: /k.gpg\n",
  );
});
