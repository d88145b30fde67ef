// Goal: the file store passes the suite, and its files, folders and errors are what they should be.
import { testObjectStore } from "#testing/suites/object-store-suite.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { openFileStore } from "./file-store.ts";

testObjectStore("file store", {
  open: async () => {
    const folder = await createTempFolder();
    const open = () => openFileStore(`${folder.path}/store`, { create: true });
    return {
      store: await open(),
      openAgain: open,
      [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
    };
  },
});
