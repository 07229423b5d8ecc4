// Choosing a photo: the browser puts it into the store itself, then asks until it is ready. No dependencies.
// Without this file the form sends the photo to the site, which does the same (views.py).

const form = document.querySelector(".chooser");
const place = document.getElementById("avatar");
const texts = JSON.parse(document.getElementById("texts").textContent);
const { media, profile, token, tokenHeader } = form.dataset;
const address = form.getAttribute("action"); // as an attribute: form.action is a URL, or a field of that name

const input = form.querySelector("input[type=file]");
const progress = form.querySelector(".progress");
const bar = progress.querySelector("progress");
const preview = progress.querySelector(".preview");
const step = progress.querySelector(".step");
const cancel = progress.querySelector(".cancel");
const notice = form.querySelector(".notice");

const POLL_MS = 400;
const PUT_PAUSES_MS = [1000, 2000, 4000];
const JUDGED = new Set(["available", "processing", "transcoding", "ready", "degraded"]);
const AT_REST = new Set(["ready", "degraded", "quarantined", "deleted"]);
const pause = (ms) => new Promise((wake) => setTimeout(wake, ms));

class Refused extends Error {
  constructor(code) {
    super(texts[code] ?? texts.unexpected);
    this.code = code;
  }
}

/** Call the site; resolves with the parsed answer, or null when there is none. Throws Refused with the error's code. */
async function call(method, path, body) {
  const headers = { Accept: "application/json", [tokenHeader]: token };
  if (body && !(body instanceof FormData)) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  const answer = await fetch(path, { method, headers, body }).catch(() => { throw new Refused("network"); });
  const told = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(told?.error?.code ?? "unexpected");
  return told;
}

/** Send the file with exactly the headers that were signed; resolves with the status, 0 when the connection broke. */
function put(grant, file, control) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch cannot tell how much it has sent
    request.open(grant.method, grant.url);
    for (const [name, value] of Object.entries(grant.headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && show(event.loaded / event.total);
    request.onload = () => resolve(request.status);
    request.onerror = () => resolve(0);
    request.onabort = () => reject(new Refused("upload_cancelled"));
    control.abort = () => request.abort();
    // As a typeless blob: the browser would add a Content-Type of its own where none was signed.
    request.send(file.slice());
  });
}

async function putWithRetries(session, grant, file, control) {
  for (let attempt = 0; ; attempt += 1) {
    const status = await put(grant, file, control);
    // 412: the object is there already, an earlier try was the one whose answer got lost.
    if ((status >= 200 && status < 300) || status === 412) return;
    if (status === 413) throw new Refused("max_bytes_exceeded");
    const expired = status === 403;
    if (attempt === PUT_PAUSES_MS.length || (status >= 400 && status < 500 && !expired && status !== 429)) {
      throw new Refused(status === 0 ? "network" : "unexpected");
    }
    await pause(PUT_PAUSES_MS[attempt]);
    if (expired) ({ upload: grant } = await call("POST", `${media}/uploads/${session.id}/sign`));
  }
}

/** Wait until the asset has come to rest, telling `onState` of each new state before that. */
async function follow(assetId, onState) {
  for (let last = null; ; await pause(POLL_MS)) {
    const { asset } = await call("GET", `${media}/assets/${assetId}`);
    if (asset.state === "quarantined") throw new Refused(asset.error_code ?? "quarantined");
    if (asset.state !== last) await onState(asset);
    if (AT_REST.has(asset.state)) return;
    last = asset.state;
  }
}

/** Replace the picture and what stands below it by what the site shows now. */
async function refresh() {
  const answer = await fetch(`${address}`, { headers: { Accept: "text/html" } });
  if (!answer.ok) throw new Refused("unexpected");
  const wasOpen = place.querySelector("details")?.open;
  place.innerHTML = await answer.text();
  const details = place.querySelector("details");
  if (details && wasOpen) details.open = true;
  form.querySelector("h2").textContent = place.querySelector("[data-asset]") ? "Replace your photo" : "Add your photo";
}

function badge(text) {
  const shown = place.querySelector(".badge");
  shown.className = `badge ${text.toLowerCase()}`;
  shown.textContent = text;
}

/** Show how far the bytes are, as a share of 1; nothing beyond that is known while they are being worked on. */
function show(share) {
  const percent = Math.round(share * 100);
  bar.value = percent;
  step.textContent = percent < 100 ? `Uploading… ${percent} %` : "Uploaded. Checking…";
}

function complain(error) {
  notice.textContent = error instanceof Refused ? error.message : texts.unexpected;
  notice.hidden = false;
}

/** Make the asset ours as soon as it has been judged, so that a refused file replaces nothing, and show it when ready. */
async function settle(assetId) {
  let attached = false;
  badge("Processing");
  bar.removeAttribute("value");
  await follow(assetId, async (asset) => {
    if (!JUDGED.has(asset.state)) return;
    if (!attached) {
      const body = new FormData();
      body.set("asset_id", assetId);
      await call("POST", address, body);
      attached = true;
      sessionStorage.removeItem(address);
      step.textContent = "Making the pictures…";
    }
    await refresh();
  });
}

async function upload(file) {
  const control = { abort: null };
  let session = null;
  cancel.hidden = false;
  cancel.onclick = () => control.abort?.();
  preview.src = URL.createObjectURL(file);
  preview.onerror = () => preview.removeAttribute("src"); // HEIC, which most browsers cannot show
  show(0);
  const ticket = await call("POST", `${media}/uploads`, {
    profile,
    filename: file.name,
    size: file.size,
    content_type: file.type || "application/octet-stream",
  });
  session = ticket.session;
  try {
    await putWithRetries(session, ticket.upload, file, control);
  } catch (error) {
    // Courtesy: an upload nobody cancels expires by itself.
    call("DELETE", `${media}/uploads/${session.id}`).catch(() => {});
    throw error;
  }
  cancel.hidden = true;
  const { asset } = await call("POST", `${media}/uploads/${session.id}/verify`);
  sessionStorage.setItem(address, asset.id); // a page that is reloaded now goes on from here
  await settle(asset.id);
}

/** Run one piece of work with the form locked and its failure shown. */
async function busy(work) {
  notice.hidden = true;
  progress.hidden = false;
  input.disabled = true;
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
input.addEventListener("change", () => input.files.length && busy(() => upload(input.files[0])));
form.addEventListener("submit", (event) => event.preventDefault());

for (const [kind, on] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  form.addEventListener(kind, (event) => {
    event.preventDefault();
    form.classList.toggle("dropping", on);
  });
}
form.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file && !input.disabled) busy(() => upload(file));
});

place.addEventListener("submit", (event) => {
  event.preventDefault();
  event.target.querySelector("button").disabled = true;
  call("POST", `${address}/remove`, new FormData(event.target)).then(refresh).catch(complain);
});

const unfinished = sessionStorage.getItem(address);
const portrait = place.querySelector(".portrait");
if (unfinished) {
  busy(() => settle(unfinished));
} else if (portrait.dataset.asset && !("rest" in portrait.dataset)) {
  follow(portrait.dataset.asset, refresh).catch(complain);
}
