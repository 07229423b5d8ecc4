// Plays a lesson that is streamed, with hls.js. Without this file only browsers that play HLS themselves can do it.
import { complain, place } from "./place.js";

const SOURCE = 'source[type="application/vnd.apple.mpegurl"]';
const playing = new Map();

async function attach(video, url) {
  const { default: Hls } = await import("/hls/hls.min.mjs").catch(() => ({}));
  if (!Hls?.isSupported() || !video.isConnected) return;
  const player = new Hls();
  playing.set(video, player);
  player.on(Hls.Events.ERROR, (_, { fatal }) => {
    if (!fatal) return;
    player.destroy(); // the token has expired, or the lesson is gone
    complain({ code: "stream_ended" });
  });
  player.loadSource(url);
  const isPlaying = !video.paused; // somebody was quicker than the script
  player.attachMedia(video);
  if (isPlaying) video.play().catch(() => {});
}

function attachAll() {
  for (const [video, player] of playing) {
    if (video.isConnected) continue;
    video.replaceChildren(); // without the script the browser would take the source, which may be gone
    player.destroy();
    playing.delete(video);
  }
  for (const source of place.querySelectorAll(`video > ${SOURCE}`)) {
    const video = source.parentElement;
    if (!playing.has(video)) attach(video, source.src);
  }
}

place.addEventListener("refreshed", attachAll);
attachAll();
