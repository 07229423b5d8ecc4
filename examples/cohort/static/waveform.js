// Draws a waveform variant, and seeks in the player beside it.
const place = document.querySelector(".place");
const SVG = "http://www.w3.org/2000/svg";
const BARS = 120;
let drawn = 0;

/** Return the path of one bar per group of peaks: from its lowest to its highest sample, never quite nothing. */
function outline(peaks) {
  const bars = Array.from({ length: BARS }, (_, bar) => {
    const group = peaks.slice(Math.floor((bar * peaks.length) / BARS), Math.floor(((bar + 1) * peaks.length) / BARS));
    const low = Math.min(-0.01, ...group.map(([lowest]) => lowest));
    const high = Math.max(0.01, ...group.map(([, highest]) => highest));
    const x = ((bar + 0.5) * 1000) / BARS;
    return `M${x.toFixed(1)} ${(100 - high * 96).toFixed(1)}V${(100 - low * 96).toFixed(1)}`;
  });
  return bars.join("");
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

async function draw(wave) {
  const { source } = wave.dataset;
  wave.removeAttribute("data-source"); // once is enough
  const answer = await fetch(source).catch(() => null);
  if (!answer?.ok) return wave.remove();
  const { peaks } = await answer.json();
  const id = `played-${(drawn += 1)}`;
  const played = element("rect", { width: 0, height: 200 });
  const clip = element("clipPath", { id });
  clip.append(played);
  const d = outline(peaks);
  wave.append(clip, element("path", { d }), element("path", { d, class: "played", "clip-path": `url(#${id})` }));

  const player = wave.parentElement.querySelector("video, audio");
  const show = () => played.setAttribute("width", (1000 * player.currentTime) / player.duration || 0);
  for (const event of ["timeupdate", "seeked", "loadedmetadata"]) player.addEventListener(event, show);
  wave.addEventListener("click", (event) => {
    if (!Number.isFinite(player.duration)) return;
    const { left, width } = wave.getBoundingClientRect();
    player.currentTime = (player.duration * (event.clientX - left)) / width;
  });
}

const drawAll = () => place.querySelectorAll(".wave[data-source]").forEach(draw);
place.addEventListener("refreshed", drawAll);
drawAll();
