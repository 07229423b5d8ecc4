// Sends a file with tus-js-client: node send.mjs PACKAGE ENDPOINT FILE OPTIONS, the package by a file in it, the
// options as JSON. Prints the URL of the upload.

import { createReadStream, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename } from "node:path";
import { PassThrough } from "node:stream";

const [inPackage, endpoint, file, text] = process.argv.slice(2);
const tus = createRequire(inPackage)("tus-js-client");
const options = JSON.parse(text);

// A stream of a file has a length, of which the client would send too much at its end.
// By the draft of the IETF it never says of a file that its last bytes are the last, only of a buffer.
const bytes = options.protocol ? readFileSync(file) : createReadStream(file);
const upload = new tus.Upload(options.uploadLengthDeferred ? bytes.pipe(new PassThrough()) : bytes, {
  endpoint,
  chunkSize: Infinity,
  metadata: { filename: basename(file), filetype: "image/png" },
  retryDelays: Array(300).fill(200),
  ...options,
  onError(error) {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess() {
    console.log(upload.url);
  },
});
upload.start();
