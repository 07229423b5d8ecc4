import Rindle from "/media/rindle.js";

const form = document.querySelector("#upload");
const output = form.querySelector("output");
const VALIDATED = new Set(["available", "processing", "transcoding", "ready", "degraded"]);

/** Put an asset on the badge as soon as it is validated: a rejected file replaces nothing. */
function adopt(assetId) {
  let isOnBadge = false;
  let steps = Promise.resolve(); // one after the other
  const onState = async (state) => {
    if (state === "quarantined") throw new Error("this file was rejected; your badge keeps its photo");
    if (VALIDATED.has(state) && !isOnBadge) {
      isOnBadge = true;
      await replaceBadge(assetId);
    }
    if (state === "ready" || state === "degraded") location.reload();
    output.textContent = `${state}…`;
  };
  Rindle.subscribe("asset", assetId, (type, payload) => {
    if (type === "error") return show(payload);
    if (type === "snapshot" || type === "asset_state_changed") steps = steps.then(() => onState(payload.state)).catch(show);
  }, { base: "/media", until: "terminal" });
}

async function replaceBadge(assetId) {
  const answer = await fetch("/badge", {
    method: "PUT",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ asset_id: assetId }),
  });
  if (answer.ok) return;
  const { error, detail } = await answer.json();
  throw new Error(error?.message ?? detail);
}

function show(error) {
  output.textContent = error.message;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = form.elements.file.files[0];
  const onProgress = ({ percent }) => { output.textContent = `${percent} %`; };
  try {
    const { assetId } = await Rindle.upload(file, { base: "/media", profile: "badge", onProgress }).done;
    adopt(assetId);
  } catch (error) {
    show(error);
  }
});

if (form.dataset.unfinished) adopt(form.dataset.unfinished); // the page was closed or reloaded meanwhile
