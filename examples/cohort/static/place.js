// The live part of a page, which shows one asset. It is fetched again after each event.
// Without this file the page reloads every two seconds until the asset is in a final state.
import { subscribe, RindleError } from "/media/rindle.js";

export const place = document.querySelector(".place");
const { address, token, tokenHeader } = place.dataset;
const texts = JSON.parse(document.getElementById("texts").textContent);
const notice = document.querySelector(".about .notice");

const FINAL_STATES = new Set(["ready", "degraded", "quarantined", "deleted"]);
const STREAM_ENDS = new Set(["ready", "errored", "deleted"]);
const RETRY_MS = 2000;
let stopFollowing = () => {};
let fetches = 0;

/** Call the site, with a form or with JSON as a string; resolves with the parsed answer, or null when there is none. Fails with the error's code. */
export async function call(method, path, body) {
  const headers = { Accept: "application/json", [tokenHeader]: token };
  if (typeof body === "string") headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body }).catch(() => { throw new RindleError("network"); });
  const result = await answer.json().catch(() => null);
  if (!answer.ok) throw new RindleError(result?.error?.code ?? "unexpected", answer.status);
  return result;
}

/** Show an error as a sentence; `null` hides it. */
export function complain(error) {
  notice.textContent = (error && (texts[error.code] ?? texts.unexpected)) || "";
  notice.hidden = !error;
}

/** Fetch the live part again. A player with an unchanged key stays: someone may be watching. */
export async function refresh() {
  const number = ++fetches;
  const lost = () => { throw new RindleError("network"); };
  const answer = await fetch(address).catch(lost);
  if (!answer.ok) throw new RindleError("unexpected", answer.status);
  const fresh = document.createElement("template");
  fresh.innerHTML = await answer.text().catch(lost);
  if (number !== fetches) return; // a later fetch is newer
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

/** Show a text in the badge until the live part is fetched again. */
export function showBadge(text) {
  const badge = place.querySelector(".badge");
  badge.className = `badge ${text.split(" ")[0].toLowerCase()}`;
  badge.textContent = text;
}

/** Show that an asset is being processed, with the progress of its slowest variant. */
export function showProgress(progress = {}) {
  const waitedFor = Object.values(progress).filter((percent) => percent !== null);
  const percent = waitedFor.length ? Math.min(...waitedFor) : 0;
  showBadge(percent ? `Processing ${percent} %` : "Processing");
  const bar = place.querySelector(".work");
  if (bar) bar.value = percent;
}

/** Whether the site may answer later: the connection is lost, or the site restarts behind a proxy. */
const isAway = ({ code, status }) => code === "network" || status > 500;

/**
 * Follow an asset until it is in a final state. `onChange(state)` is called for each state of it, and without one when a
 * variant has ended; the next call waits for the one before. A call that fails while the site is away is repeated.
 */
export function follow(assetId, { ticket, onChange = refresh } = {}) {
  stopFollowing();
  let isFollowed = true;
  const received = {};
  const note = ({ name, variant_name = name, state, progress }) => {
    if (state === "failed" || state === "cancelled") received[variant_name] = null; // no longer counted
    else received[variant_name] = state === "ready" ? 100 : progress;
  };
  const paint = () => {
    const shown = place.querySelector("[data-asset]")?.dataset;
    if (shown?.asset !== assetId || shown.rest !== undefined) return;
    // The larger is the newer, unless a build begins again. A variant that has not started has no event yet.
    const progress = JSON.parse(shown.progress);
    for (const [name, percent] of Object.entries(received)) {
      progress[name] = percent === null ? null : Math.max(percent, progress[name] ?? 0);
    }
    showProgress(progress);
  };
  const insist = async (step) => {
    while (isFollowed) {
      try {
        return await step();
      } catch (error) {
        if (!isAway(error)) throw error;
      }
      await new Promise((wake) => setTimeout(wake, RETRY_MS));
    }
  };
  place.addEventListener("refreshed", paint); // at once: the fetched part may be older than what was received
  return new Promise((resolve, reject) => {
    let steps = Promise.resolve();
    const fail = (error) => {
      stop();
      reject(error);
    };
    const onEvent = (type, payload) => {
      if (type === "error") return fail(payload);
      if (type === "snapshot") payload.variants.forEach(note);
      if (type.startsWith("variant_")) note(payload);
      paint();
      const state = type === "snapshot" || type === "asset_state_changed" ? payload.state : undefined;
      if (!state && !["variant_ready", "variant_failed", "variant_cancelled"].includes(type)) return;
      steps = steps.then(() => insist(() => onChange(state)));
      steps.then(() => {
        if (!isFollowed || !FINAL_STATES.has(state)) return;
        stop();
        watchStream();
        resolve();
      }, fail);
    };
    const unsubscribe = subscribe("asset", assetId, onEvent, { base: "/media", until: "terminal", ticket });
    const stop = () => {
      isFollowed = false;
      unsubscribe();
      place.removeEventListener("refreshed", paint);
    };
    stopFollowing = stop;
  });
}

/** Follow an asset at its streaming provider; resolves with the state in which nothing more happens there. */
export function followStream(assetId, ticket) {
  stopFollowing();
  return new Promise((resolve, reject) => {
    const onEvent = (type, payload) => {
      if (type === "error") reject(payload);
      else if (STREAM_ENDS.has(payload.state)) resolve(payload.state);
    };
    stopFollowing = subscribe("provider_asset", assetId, onEvent, { base: "/media", until: "terminal", ticket });
  });
}

/** Follow the asset of the page at its streaming provider, if the provider still has to prepare it. */
function watchStream() {
  const { asset, streamTicket: ticket } = place.querySelector("[data-asset]")?.dataset ?? {};
  if (asset && ticket) followStream(asset, ticket).then(() => refresh()).catch(complain);
}

/** Follow the asset of the page, unless it is in a final state; then its stream. */
function watch() {
  const { asset, rest, ticket } = place.querySelector("[data-asset]")?.dataset ?? {};
  if (asset && rest === undefined) follow(asset, { ticket }).catch(complain);
  else watchStream();
}

// Buttons in the live part: the page stays, and the part is fetched again.
place.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  form.querySelector("button").disabled = true;
  complain(null);
  await call("POST", form.getAttribute("action"), new FormData(form)).catch(complain);
  await refresh().then(watch, complain);
});

watch();
