// Sends a file with tus-js-client: node send.mjs PACKAGES ENDPOINT FILE OPTIONS, the options as JSON.
// Prints the URL of the upload.

import { createReadStream, statSync } from "node:fs";
import { createRequire } from "node:module";
import { basename } from "node:path";

const [packages, endpoint, file, options] = process.argv.slice(2);
const tus = createRequire(`${packages}/`)("tus-js-client");

const upload = new tus.Upload(createReadStream(file), {
  endpoint,
  uploadSize: statSync(file).size,
  chunkSize: Infinity,
  metadata: { filename: basename(file), filetype: "image/png" },
  retryDelays: Array(300).fill(200),
  ...JSON.parse(options),
  onError(error) {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess() {
    console.log(upload.url);
  },
});
upload.start();
