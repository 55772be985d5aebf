// A scene: its points and cameras, turned by hand, and its frames with their depth. Text of its folder is only ever text.

import { heat } from "./draw.js";
import { number, percent, seconds } from "./plan.js";
import { $, given, make, remember, S, server, trying, V } from "./state.js";
import { turnable } from "./turn.js";

let turning;

const label = (frame, i) => (frame.time_s === null ? `frame ${i + 1}` : seconds(frame.time_s));
const depthText = ({ depth }) => (depth.known ? `depth ${depth.near} to ${depth.far}, half of it beyond ${depth.middle}; known of ${percent(depth.known, 1)} of the pixels` : "no depth is known");

/** Shows what the server sends under this path, unless something else is wanted there meanwhile. */
async function picture(image, path) {
  image.dataset.path = path;
  const blob = await trying(async () => (await server.ask(path)).blob());
  if (!blob || image.dataset.path !== path) return;
  image.src = URL.createObjectURL(blob);
  image.onload = () => URL.revokeObjectURL(image.src);
}

export async function showScene(found) {
  const points = await trying(() => server.bytes(`api/points/${found.id}`));
  if (!points) return;
  const count = found.points.shown;
  V.place = found;
  if (given.t) { S.t = Number(given.t) || 0; delete given.t; }
  for (const id of ["drop", "looks", "side"]) $(id).hidden = true;
  $("place").hidden = $("beside-place").hidden = false;
  document.title = `${found.name} - tubelet`;
  $("meaning").hidden = !found.untrained;
  $("meaning").textContent = found.untrained ? `${found.network} is UNTRAINED: random weights, this scene means nothing` : "";
  facts(); legend(); strip();
  turning ??= turnable({ canvas: $("turn"), told: $("turned"), share: $("shown"), size: $("dot"), reset: $("reset"), cameras: $("cameras"), previous: $("previous"), next: $("next") }, (i) => { if (i >= 0) look(i); });
  turning.load(found.scene, new Uint16Array(points, 0, 3 * count), new Uint8Array(points, 6 * count));
  look(Math.min(S.t, found.frames.length - 1));
  document.body.dataset.drawn = found.id;
}

export function hideScene() {
  V.place = undefined;
  $("place").hidden = $("beside-place").hidden = true;
}

function facts() {
  const { place } = V, [first] = place.frames, times = first.time_s === null ? [] : [["times", `${seconds(first.time_s)} to ${seconds(place.frames.at(-1).time_s)}`]];
  const rows = [
    ["name", place.name],
    ["made of", place.world],
    ["network", place.network],
    ["frames", `${number(place.frames.length)} of ${number(place.width)} x ${number(place.height)} pixels`],
    ...times,
    ["points drawn", number(place.points.shown)],
    ["points kept", `${number(place.points.kept)} of ${number(place.points.usable)}, the surest`],
    ["depth", `${place.depth.near} to ${place.depth.far} in ${place.unit}`],
  ];
  $("place-facts").replaceChildren(...rows.flatMap(([k, v]) => [make("dt", { textContent: k }), make("dd", { textContent: v })]));
}

function legend() {
  const { depth, frames, unit } = V.place, image = new ImageData(180, 12);
  const bar = heat(Float32Array.from({ length: 180 }, (_, i) => i), 0, 179, depth.colours, 255, 0);
  for (let y = 0; y < 12; y++) new Uint32Array(image.data.buffer).set(bar, 180 * y);
  $("depths").getContext("2d").putImageData(image, 0, 0);
  $("near").textContent = `near ${depth.near}`; $("far").textContent = `far ${depth.far}`;
  $("unit").textContent = `Depth in ${unit}, one scale for all frames${frames.some((one) => one.depth.known < 1) ? "; red: none is known" : ""}.`;
}

async function strip() {
  const { id, frames } = V.place;
  $("frames").replaceChildren(...frames.map((frame, i) => {
    const { known, near, far } = frame.depth;
    const button = make("button", { type: "button", onclick: () => turning.lookFrom(i), ariaLabel: `Look from camera ${i + 1}, ${label(frame, i)}, ${depthText(frame)}` });
    button.append(make("img", { alt: "" }), make("img", { alt: "" }), make("span", { textContent: label(frame, i) }), make("br"), make("span", { textContent: known ? `${near} to ${far}` : "no depth" }));
    return make("li", {}, button);
  }));
  for (const [i, li] of [...$("frames").children].entries()) {
    if (V.place?.id !== id) return;
    const [photo, depth] = li.querySelectorAll("img");
    await Promise.all([picture(photo, `api/frame/${id}/${i}?side=128`), picture(depth, `api/depth/${id}/${i}?side=128`)]);
  }
}

/** The frame that is large, beside its depth. */
function look(i) {
  const { id, frames } = V.place, frame = frames[i];
  S.t = i;
  for (const [k, li] of [...$("frames").children].entries()) li.firstElementChild.setAttribute("aria-current", String(k === i));
  $("photo").alt = `Frame ${i + 1} of ${frames.length}`; $("depth").alt = `Depth of frame ${i + 1}: ${depthText(frame)}`;
  $("photographed").textContent = `${i + 1} of ${frames.length}: ${frame.source}${frame.time_s === null ? "" : ` at ${seconds(frame.time_s)}`}`;
  $("measured").textContent = depthText(frame);
  picture($("photo"), `api/frame/${id}/${i}`); picture($("depth"), `api/depth/${id}/${i}`);
  remember();
}
