// The part of a page that changes by itself: what the site shows of one asset. Events say when to look again.
// Without this file the page looks again every two seconds until the asset has come to rest.
import { subscribe, RindleError } from "/media/rindle.js";

export const place = document.querySelector(".place");
const { address, token, tokenHeader } = place.dataset;
const texts = JSON.parse(document.getElementById("texts").textContent);
const notice = document.querySelector(".about .notice");

const AT_REST = new Set(["ready", "degraded", "quarantined", "deleted"]);
let stopFollowing = () => {};
let looks = 0;

/** Call the site; resolves with the parsed answer, or null when there is none. Fails with the error's code. */
export async function call(method, path, body) {
  const headers = { Accept: "application/json", [tokenHeader]: token };
  const answer = await fetch(path, { method, headers, body }).catch(() => { throw new RindleError("network"); });
  const told = await answer.json().catch(() => null);
  if (!answer.ok) throw new RindleError(told?.error?.code ?? "unexpected", answer.status);
  return told;
}

/** Say in a sentence what went wrong; nothing takes it back. */
export function complain(error) {
  notice.textContent = (error && (texts[error.code] ?? texts.unexpected)) || "";
  notice.hidden = !error;
}

/** Show what the site shows now. What plays stays as it is while its key does: somebody may be watching. */
export async function refresh() {
  const look = ++looks;
  const answer = await fetch(address).catch(() => { throw new RindleError("network"); });
  if (!answer.ok) throw new RindleError("unexpected", answer.status);
  const fresh = document.createElement("template");
  fresh.innerHTML = await answer.text();
  if (look !== looks) return; // a later look sees more
  const wasOpen = place.querySelector("details")?.open;
  const [old, now] = [place, fresh.content].map((where) => where.querySelector("[data-key]"));
  if (old?.dataset.key && old.dataset.key === now?.dataset.key) {
    now.remove();
    while (old.nextSibling) old.nextSibling.remove();
    place.append(fresh.content);
  } else {
    place.replaceChildren(fresh.content);
  }
  const details = place.querySelector("details");
  if (details && wasOpen) details.open = true;
  place.dispatchEvent(new Event("refreshed"));
}

/** Say that an asset is being worked on, and how far the slowest of its variants is. */
export function showProgress(progress = {}) {
  const badge = place.querySelector(".badge");
  const waitedFor = Object.values(progress).filter((percent) => percent !== null);
  const percent = waitedFor.length ? Math.min(...waitedFor) : 0;
  badge.className = "badge processing";
  badge.textContent = percent ? `Processing ${percent} %` : "Processing";
  const bar = place.querySelector(".work");
  if (bar) bar.value = percent;
}

/**
 * Follow an asset until it has come to rest. `onChange(state)` is called for each state of it, and without one when a
 * variant has ended; the next call waits for the one before.
 */
export function follow(assetId, { ticket, onChange = refresh } = {}) {
  stopFollowing();
  const heard = {};
  const note = ({ name, variant_name = name, state, progress }) => {
    if (state === "failed" || state === "cancelled") heard[variant_name] = null; // nobody waits for it any more
    else heard[variant_name] = state === "ready" ? 100 : progress;
  };
  const paint = () => {
    const shown = place.querySelector("[data-asset]")?.dataset;
    // What has not begun has no event yet: the page knows of it.
    if (shown?.asset === assetId && shown.rest === undefined) showProgress({ ...JSON.parse(shown.progress), ...heard });
  };
  return new Promise((resolve, reject) => {
    let steps = Promise.resolve();
    const hear = (type, payload) => {
      if (type === "error") return reject(payload);
      if (type === "snapshot") payload.variants.forEach(note);
      if (type.startsWith("variant_")) note(payload);
      paint();
      const state = type === "snapshot" || type === "asset_state_changed" ? payload.state : undefined;
      if (!state && !["variant_ready", "variant_failed", "variant_cancelled"].includes(type)) return;
      steps = steps.then(() => onChange(state)).then(paint);
      steps.then(() => AT_REST.has(state) && resolve(), (error) => { stopFollowing(); reject(error); });
    };
    stopFollowing = subscribe("asset", assetId, hear, { base: "/media", until: "terminal", ticket });
  });
}

/** Follow what the page shows, if it is not at rest. */
function watch() {
  const { asset, rest, ticket } = place.querySelector("[data-asset]")?.dataset ?? {};
  if (asset && rest === undefined) follow(asset, { ticket }).catch(complain);
}

// Buttons inside the place: the page stays, and its part is shown anew.
place.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  form.querySelector("button").disabled = true;
  complain(null);
  await call("POST", form.getAttribute("action"), new FormData(form)).catch(complain);
  await refresh().then(watch, complain);
});

watch();
