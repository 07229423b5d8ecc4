// Choose a file: the browser sends it to the store itself; it is attached after its validation.
// Without this file the form sends it to the site, which does the same (pages.py).
import { upload, RindleError } from "/media/rindle.js";
import { call, complain, follow, followStream, refresh, showBadge, showProgress } from "./place.js";

const form = document.querySelector(".chooser");
const address = form.getAttribute("action"); // as an attribute: form.action is a URL, or a field of that name
const input = form.querySelector("input[type=file]");
const progress = form.querySelector(".progress");
const bar = progress.querySelector("progress");
const preview = progress.querySelector(".preview");
const step = progress.querySelector(".step");
const cancel = progress.querySelector(".cancel");

const VALIDATED = new Set(["available", "processing", "transcoding", "ready", "degraded"]);
const STEPS = { verifying: "Uploaded. Checking…", preparing: "Uploaded. The provider prepares it…" };
const { profile, strategy } = form.dataset;
const isDirect = strategy === "direct"; // to the streaming provider

async function attach(assetId) {
  const body = new FormData();
  body.set("asset_id", assetId);
  await call("POST", address, body);
  sessionStorage.removeItem(address);
}

/** Attach the asset as soon as the streaming provider can play it. */
async function adoptStream(assetId) {
  showBadge("Preparing the stream");
  step.textContent = STEPS.preparing;
  bar.removeAttribute("value");
  const state = await followStream(assetId);
  if (state !== "ready") throw new RindleError(state === "deleted" ? "upload_cancelled" : "not_streamed");
  await attach(assetId);
  await refresh();
}

/** Attach the asset as soon as it is validated, so that a rejected file replaces nothing. */
function adopt(assetId) {
  if (isDirect) return adoptStream(assetId);
  let isOurs = false;
  showProgress();
  step.textContent = STEPS.verifying;
  bar.removeAttribute("value");
  return new Promise((resolve, reject) => {
    const onChange = async (state) => {
      if (state === "quarantined") {
        const { asset } = await call("GET", `/media/assets/${assetId}`);
        throw new RindleError(asset.error_code ?? state);
      }
      if (!isOurs) {
        if (!VALIDATED.has(state)) return;
        await attach(assetId);
        isOurs = true;
      }
      await refresh();
      resolve(); // the rest can be watched
    };
    follow(assetId, { onChange }).then(resolve, (error) => (isOurs ? complain(error) : reject(error)));
  });
}

/** Begin to send a file; returns what `upload` of rindle.js does. */
async function begin(file, { onProgress, onState }) {
  if (strategy === "tus") return (await import("./resumable.js")).upload(file, { address, onProgress });
  if (!isDirect) return upload(file, { base: "/media", profile, strategy, onProgress, onState });
  showBadge("Uploading");
  return (await import("./direct.js")).upload(file, { profile, onProgress });
}

async function send(file) {
  const onProgress = ({ percent }) => {
    bar.value = percent;
    step.textContent = `Uploading… ${percent} %`;
  };
  const onState = ({ state }) => { if (STEPS[state]) step.textContent = STEPS[state]; };
  onProgress({ percent: 0 });
  if (file.type.startsWith("image/")) preview.src = URL.createObjectURL(file);
  preview.onerror = () => preview.removeAttribute("src"); // HEIC, which most browsers cannot show
  const up = await begin(file, { onProgress, onState });
  cancel.onclick = up.abort;
  cancel.hidden = false;
  const { assetId } = await up.done;
  cancel.hidden = true;
  sessionStorage.setItem(address, assetId); // a reloaded page continues from here
  await adopt(assetId);
}

/** Run one piece of work with the form locked and its failure shown. */
async function busy(work) {
  complain(null);
  progress.hidden = false;
  input.disabled = true;
  cancel.hidden = true;
  try {
    await work();
  } catch (error) {
    sessionStorage.removeItem(address);
    await refresh().catch(() => {});
    complain(error);
  } finally {
    URL.revokeObjectURL(preview.src);
    preview.removeAttribute("src");
    progress.hidden = true;
    input.disabled = false;
    input.value = "";
  }
}

form.querySelector(".row button").hidden = true;
input.addEventListener("change", () => input.files.length && busy(() => send(input.files[0])));
form.addEventListener("submit", (event) => event.preventDefault());

for (const [kind, on] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  form.addEventListener(kind, (event) => {
    event.preventDefault();
    form.classList.toggle("dropping", on);
  });
}
form.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file && !input.disabled) busy(() => send(file));
});

const unfinished = sessionStorage.getItem(address);
if (unfinished) busy(() => adopt(unfinished));
