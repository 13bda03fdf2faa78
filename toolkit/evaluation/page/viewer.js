// The same clip of every variant, in step: the first video is the clock, the others follow it.
const viewer = document.getElementById("viewer");
const CRAWL = 0.0625; // the slowest that Chromium plays
const state = { videos: [], fps: 1, frames: 1, playing: false, rate: 1, turn: 0, wanted: 0 };

const button = (label, text, action) => {
  const node = make("button", { type: "button", "aria-label": label, title: label }, text);
  node.addEventListener("click", action);
  return node;
};
const press = (node, on) => node.setAttribute("aria-pressed", String(on));

const clips = make("select", { "aria-label": "Clip" }, ...DATA.clips.map((clip, n) => make("option", { value: n }, clip.title)));
const playing = button("Play or pause (space)", "Play", () => (state.playing ? pause() : play()));
const slider = make("input", { type: "range", min: 0, step: 1, value: 0, "aria-label": "Frame" });
const speeds = [1, 0.25].map((rate) => button(`Speed ${rate}`, `${rate}×`, () => setRate(rate)));
const zoom = button("Zoom, with every pixel a square", "Zoom", () => press(zoom, grid.classList.toggle("zoomed")));
const readout = make("output", {});
const grid = make("div", { class: "videos" });
playing.className = "play";

/** The frame that is on the screen at a time. */
const frameAt = (time) => Math.max(0, Math.min(state.frames - 1, Math.floor(time * state.fps + 1e-3)));

function display(frame) {
  slider.value = frame;
  readout.textContent = `frame ${frame + 1} of ${state.frames} · ${(frame / state.fps).toFixed(2)} s`;
}

/** Seek every video to the middle of a frame's time, so that rounding cannot show a neighbouring frame. */
function seek(frame) {
  state.wanted = Math.max(0, Math.min(state.frames - 1, frame));
  for (const video of state.videos) video.currentTime = (state.wanted + 0.5) / state.fps;
  display(state.wanted);
}

const drawn = () => new Promise(requestAnimationFrame);

const settled = (video) => new Promise((resolve) => {
  const ready = () => {
    if (video.error || (!video.seeking && video.readyState >= 2)) resolve();
    else video.addEventListener(video.seeking ? "seeked" : "canplay", ready, { once: true });
  };
  video.addEventListener("error", resolve, { once: true });
  ready();
});

function pause() {
  state.playing = false;
  state.turn += 1;
  playing.textContent = "Play";
  for (const video of state.videos) video.pause();
  if (state.videos.length) seek(frameAt(state.videos[0].currentTime));
}

function step(by) {
  if (state.playing) pause();
  seek(state.wanted + by);
}

async function play() {
  if (!state.videos.length) return;
  const turn = ++state.turn;
  state.playing = true;
  playing.textContent = "Pause";
  if (frameAt(state.videos[0].currentTime) >= state.frames - 1) seek(0);
  await Promise.all(state.videos.map(settled));
  if (turn !== state.turn) return;
  state.videos = state.videos.filter((video) => !video.error);
  // Videos start after different delays. They start at CRAWL speed, so that the delays hardly separate them.
  for (const video of state.videos) video.playbackRate = CRAWL;
  const begin = state.videos.map((video) => video.currentTime);
  try {
    await Promise.all(state.videos.map((video) => video.play()));
  } catch (error) {
    if (turn !== state.turn) return; // paused before it began
    pause();
    readout.textContent = error.message;
    return;
  }
  for (let n = 0; n < 30 && state.videos.some((video, k) => video.currentTime === begin[k]); n++) await drawn();
  if (turn !== state.turn) return;
  for (const video of state.videos) video.playbackRate = state.rate;
  follow(turn);
}

/** A drift of up to one frame is corrected by the speed, a larger one by a jump. */
function follow(turn) {
  if (turn !== state.turn) return;
  const [clock, ...others] = state.videos;
  if (clock.ended || clock.currentTime >= state.frames / state.fps) return again();
  state.wanted = frameAt(clock.currentTime);
  display(state.wanted);
  for (const video of others) {
    if (video.seeking || video.ended) continue;
    const drift = (video.currentTime - clock.currentTime) * state.fps; // in frames
    if (Math.abs(drift) > 1) video.currentTime = clock.currentTime;
    const rate = Math.abs(drift) < 0.1 ? state.rate : state.rate * (1 - Math.max(-0.5, Math.min(0.5, 2 * drift)));
    if (Math.abs(video.playbackRate - rate) > 0.02 * state.rate) video.playbackRate = rate;
  }
  requestAnimationFrame(() => follow(turn));
}

/** From the beginning, all together. */
function again() {
  for (const video of state.videos) video.pause();
  seek(0);
  play();
}

function setRate(rate) {
  state.rate = rate;
  speeds.forEach((node, n) => press(node, [1, 0.25][n] === rate));
  for (const video of state.videos) video.playbackRate = rate;
}

function cell(entry) {
  const media = DATA.media[entry.path];
  let node = make("div", { class: "missing" }, media.problem || "");
  if (media.src) {
    node = make("video", { src: media.src, preload: "auto", playsinline: "", width: media.width, height: media.height, "aria-label": entry.title });
    node.muted = true;
    node.addEventListener("error", () => node.replaceWith(make("div", { class: "missing" }, `this browser cannot play ${entry.path}`)));
    node.addEventListener("ended", () => { if (state.playing && node === state.videos[0]) again(); });
  }
  return make("figure", {}, node, make("figcaption", {}, entry.title, make("span", {}, entry.caption)));
}

function choose(clip) {
  if (state.playing) pause();
  for (const video of grid.querySelectorAll("video")) video.removeAttribute("src");
  grid.replaceChildren(...clip.cells.map(cell));
  state.videos = [...grid.querySelectorAll("video")];
  const shown = clip.cells.map((entry) => DATA.media[entry.path]).filter((media) => media.src);
  state.fps = shown.length ? shown[0].fps : 1;
  state.frames = shown.length ? Math.max(1, Math.min(...shown.map((media) => media.frames))) : 1;
  slider.max = state.frames - 1;
  seek(0);
}

/** Space and the arrows, when the viewer is on the screen and no other control wants them. */
function onKey(event) {
  const action = { Space: () => playing.click(), ArrowLeft: () => step(-1), ArrowRight: () => step(1) }[event.code];
  const box = viewer.getBoundingClientRect();
  const visible = box.top < innerHeight && box.bottom > 0;
  const taken = event.target.closest("button, select, a, summary, [tabindex]") && event.target !== slider;
  if (!action || !visible || taken || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  action();
}

viewer.hidden = !DATA.clips.length;
if (DATA.clips.length) {
  const controls = make("div", { class: "controls", role: "group", "aria-label": "Videos" });
  if (DATA.clips.length > 1) controls.append(clips);
  controls.append(playing, button("One frame back (left arrow)", "◂", () => step(-1)),
    button("One frame on (right arrow)", "▸", () => step(1)), slider, readout, ...speeds, zoom);
  viewer.append(controls, grid);
  clips.addEventListener("change", () => choose(DATA.clips[clips.value]));
  slider.addEventListener("input", () => { const frame = Number(slider.value); if (state.playing) pause(); seek(frame); });
  document.addEventListener("keydown", onKey);
  press(zoom, false);
  setRate(1);
  choose(DATA.clips[0]);
}
