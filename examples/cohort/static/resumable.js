// Sends a file by tus, with Uppy. An upload that broke off continues, also in another window and after a reload: this
// browser remembers where it goes until it is complete.
import { Uppy, Tus } from "/uppy.mjs";
import { RindleError } from "/media/rindle.js";
import { call } from "./place.js";

/** Proxies before a site often limit bodies. */
const CHUNK_BYTES = 8 * 1024 ** 2;
const GONE = new Set([401, 403, 404, 410]);

/** Send `file` to the form at `address`; the same as `upload` of rindle.js. */
export function upload(file, { address, onProgress }) {
  const key = `${address} ${file.name} ${file.size} ${file.lastModified}`;
  const uppy = new Uppy({ autoProceed: false });
  uppy.use(Tus, { chunkSize: CHUNK_BYTES, limit: 1, storeFingerprintForResuming: false });
  uppy.on("upload-progress", (_, { bytesUploaded }) => {
    onProgress({ percent: file.size ? Math.floor((100 * bytesUploaded) / file.size) : 100 });
  });
  const about = { filename: file.name, size: file.size, content_type: file.type || null };
  const opened = async () => {
    const { asset_id, upload_url } = await call("POST", `${address}/upload`, JSON.stringify(about));
    localStorage.setItem(key, JSON.stringify({ assetId: asset_id, url: upload_url }));
    return JSON.parse(localStorage.getItem(key));
  };

  async function attempt({ url }) {
    const id = uppy.addFile({ name: file.name, type: file.type, data: file });
    uppy.setFileState(id, { tus: { uploadUrl: new URL(url, location.href).href } });
    let status = 0;
    const onError = (_, error) => { status = error?.originalResponse?.getStatus() ?? 0; };
    uppy.on("upload-error", onError);
    const result = await uppy.upload();
    uppy.off("upload-error", onError);
    const isDone = result?.successful?.length === 1;
    if (!isDone) uppy.clear();
    return { isDone, status };
  }

  let isCancelled = false;
  async function run() {
    const before = JSON.parse(localStorage.getItem(key));
    let known = before ?? (await opened());
    let { isDone, status } = await attempt(known);
    if (!isDone && before && !isCancelled && GONE.has(status)) {
      known = await opened(); // the upload of before has ended
      ({ isDone, status } = await attempt(known));
    }
    if (isCancelled) throw new RindleError("upload_cancelled");
    if (!isDone) throw new RindleError(GONE.has(status) ? "upload_session_expired" : "network", status);
    localStorage.removeItem(key);
    return { assetId: known.assetId };
  }

  const abort = () => {
    isCancelled = true;
    localStorage.removeItem(key);
    uppy.cancelAll();
  };
  return { done: run(), abort };
}
