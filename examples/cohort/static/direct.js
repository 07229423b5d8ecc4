// Sends a video to the streaming provider itself, in chunks, with UpChunk: the site only opens the upload.
import { createUpload } from "/upchunk/upchunk.mjs";
import { RindleError } from "/media/rindle.js";
import { call } from "./place.js";

/** Small enough for a progress that moves, and for a lost connection to cost little. */
const CHUNK_KIB = 1024;

/** Send `file` for a profile; the same as `upload` of rindle.js. Each attempt is an upload of its own. */
export function upload(file, { profile, onProgress }) {
  const opening = call("POST", "/media/uploads/direct", JSON.stringify({ profile, filename: file.name }));
  let sender;
  let fail;
  const failed = new Promise((_, reject) => { fail = reject; });

  async function send() {
    const { asset_id: assetId, upload_url: endpoint } = await opening;
    await new Promise((resolve) => {
      sender = createUpload({ endpoint, file, chunkSize: CHUNK_KIB });
      sender.on("progress", ({ detail }) => onProgress({ percent: Math.floor(detail) }));
      sender.on("error", () => fail(new RindleError("network")));
      sender.on("success", resolve);
    });
    return { assetId };
  }

  /** Cancel the upload, here and at the provider; one that has arrived completely goes on. */
  async function abort() {
    try {
      const { asset_id: assetId } = await opening;
      sender.pause();
      await call("DELETE", `/media/uploads/direct/${assetId}`);
      fail(new RindleError("upload_cancelled"));
    } catch (error) {
      if (error.code === "not_cancellable") sender.resume();
      else fail(error);
    }
  }
  return { done: Promise.race([send(), failed]), abort };
}
