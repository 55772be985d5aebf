// What is drawn: the picture, its cells, and the frames of a clip below it.

import { keptOf, placed, rowsNow } from "./cells.js";
import { countsOf, heat, paint, rgba } from "./draw.js";
import { commandOf, number, percent, seconds, short } from "./plan.js";
import { $, clip, make, methodOf, own, panel, remember, S, server, trying, V } from "./state.js";
import { mark } from "./token.js";

const KEPT = rgba(255, 170, 0), WHITE = rgba(255, 255, 255), HAIR = rgba(0, 96, 224, 170), CLEAR = rgba(255, 170, 0, 70);
const VEILS = { true: rgba(205, 211, 222, 170), false: rgba(22, 23, 26, 150) }; // of a page, of a photograph
const HAIRS = { true: [CLEAR, rgba(180, 187, 201, 190)], false: [CLEAR, rgba(74, 76, 82, 165)] }; // on kept cells, and on that veil
let drawing = 0;

export function layout() {
  const [left, top, right, bottom] = panel().extent, two = Boolean(S.beside);
  const [first, second] = $("panes").children, aspect = (right - left) / (bottom - top);
  second.hidden = !two;
  const room = $("looks").clientWidth, beside = two && room >= 500;
  const most = Math.min(beside ? (room - 14) / 2 : room, Math.max((innerWidth < 900 ? 0.56 : 0.72) * innerHeight, 260) * aspect, 4 * (right - left));
  const width = Math.max(60, Math.floor(most)), dense = Math.min(devicePixelRatio || 1, 1600 / width);
  for (const figure of [first, second]) for (const canvas of figure.querySelectorAll("canvas")) {
    canvas.width = Math.round(width * dense); canvas.height = Math.max(1, Math.round((canvas.width * (bottom - top)) / (right - left)));
    canvas.style.width = `${width}px`; canvas.style.height = `${canvas.height / dense}px`;
  }
}

const frameNow = () => V.doc.items[panel().items[0]].frames[Math.min(S.t, V.doc.items[panel().items[0]].grid[0] - 1)];

/** The longest side of a frame that fills the canvas, in steps, so that a window may grow a little. */
function sideNow() {
  const [left, , right] = panel().extent, across = document.querySelector("canvas.pixels").width / (right - left);
  return Math.min(2048, 128 * Math.ceil((across * Math.max(V.doc.width, V.doc.height)) / 128));
}

function bitmapOf(frame) {
  const side = sideNow(), key = `${frame} ${side}`;
  if (!V.frames.has(key)) {
    const asked = server.frame(V.doc.id, frame, side).then((blob) => createImageBitmap(blob));
    asked.catch(() => V.frames.delete(key));
    V.frames.set(key, asked);
    if (V.frames.size > 12) { const [old] = V.frames.keys(); V.frames.get(old).then((one) => one.close(), () => {}); V.frames.delete(old); }
  }
  return V.frames.get(key);
}

export async function drawFrame() {
  const id = V.doc.id, frame = frameNow(), bitmap = await trying(() => bitmapOf(frame));
  if (!bitmap || V.doc.id !== id || frame !== frameNow()) return;
  const [left, top, right, bottom] = panel().extent, scale = bitmap.width / V.doc.width;
  for (const canvas of document.querySelectorAll("canvas.pixels")) {
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#808080";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, left * scale, top * scale, (right - left) * scale, (bottom - top) * scale, 0, 0, canvas.width, canvas.height);
  }
  document.body.dataset.drawn = `${V.doc.id} ${frame}`;
  redraw();
}

export function redraw() {
  if (!drawing) drawing = requestAnimationFrame(() => { drawing = 0; if (V.doc) drawNow(); });
}

function drawNow() {
  const start = performance.now();
  [S.method, S.beside].forEach((name, pane) => { if (name) drawPane(pane, V.told[pane]?.name === name ? V.told[pane] : undefined, name); });
  sayKept(); counts(); mark();
  document.body.dataset.redraw = (performance.now() - start).toFixed(2);
  for (const id of ["budget", "count"]) if (document.activeElement !== $(id) || $(id).value !== String(S.budget)) $(id).value = S.budget;
  $("budget").setAttribute("aria-valuetext", `${number(S.budget)} of ${number(V.doc.tokens)} tokens`);
}

function drawPane(pane, said, name) {
  const figure = $("panes").children[pane], canvas = figure.querySelector(".cells");
  const pen = canvas.getContext("2d"), image = new ImageData(canvas.width, canvas.height), out = new Uint32Array(image.data.buffer);
  const kept = said && !said.resized ? keptOf(said) : undefined, mode = S.show === "heat" && !said?.scores ? "kept" : S.show;
  for (const item of own()) {
    const rows = rowsNow(item), fill = new Uint32Array(rows.length), on = new Uint8Array(rows.length), veil = VEILS[V.doc.page];
    const colours = mode === "colours" ? V.tints : mode === "heat" ? said?.fill : undefined;
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i];
      on[i] = row >= 0 && kept ? kept[row] : 0;
      fill[i] = mode === "grid" || !said ? 0 : row < 0 ? veil : colours ? colours[row] : said.resized || on[i] || mode === "colours" ? 0 : veil;
    }
    const lines = mode === "grid" || mode === "colours" ? undefined : on;
    const nothing = mode !== "grid" && (!said || (said.resized && mode === "kept")); // yet, or a grid of its own below
    const cells = nothing ? [] : [{ ...placed(item.box, item.grid, canvas), fill, kept: lines, line: mode === "heat" ? WHITE : KEPT, grid: mode === "grid" ? [HAIR, HAIR] : mode === "kept" ? HAIRS[V.doc.page] : undefined }];
    cells.forEach((view) => paint(out, canvas.width, view));
  }
  if (said?.resized && mode === "kept") for (const item of said.resized.items) {
    const [, h, w] = item.grid;
    paint(out, canvas.width, { ...placed(item.box, item.grid, canvas), fill: new Uint32Array(h * w), kept: undefined, line: KEPT, grid: [KEPT, KEPT] });
  }
  pen.putImageData(image, 0, 0);
  if (pane === 0) drawAnswer(pen, canvas);
  const many = S.beside ? ` · ${keptText(said)}` : "";
  figure.querySelector("figcaption").textContent = S.beside || clip() ? `${S.beside ? name + many : ""}${S.beside && clip() ? " · " : ""}${clip() ? `at ${seconds(own()[0].times_s[S.t])}` : ""}` : "";
}

function drawAnswer(pen, canvas) {
  const [left, top, right] = panel().extent, scale = canvas.width / (right - left);
  pen.strokeStyle = "#0a84ff";
  pen.lineWidth = 3;
  for (const { frame, box } of V.answered) if (frame === S.t) pen.strokeRect((box[0] - left) * scale, (box[1] - top) * scale, (box[2] - box[0]) * scale, (box[3] - box[1]) * scale);
}

function keptText(said) {
  if (!said) return "asking ...";
  if (said.resized) return `${number(said.resized.rows)} tokens on a grid of ${said.resized.items[0].grid.join(" x ")}`;
  let many = 0;
  for (const one of keptOf(said)) many += one;
  const asked = said.ranks || said.budget === S.budget ? "" : `; asking for ${number(S.budget)} ...`;
  return `${number(many)} of ${number(V.doc.tokens)} (${percent(many, V.doc.tokens)}) tokens kept${asked}`;
}

function sayKept() {
  const said = V.told[0]?.name === S.method ? V.told[0] : undefined, [first, ...rest] = keptText(said).split(" ");
  $("kept").replaceChildren(make("b", { textContent: first }), ` ${rest.join(" ")}`);
  for (const button of $("shows").children) button.setAttribute("aria-pressed", String(button.dataset.show === S.show));
  $("shows").querySelector('[data-show="heat"]').disabled = Boolean(said && !said.scores);
  $("method").value = S.method; $("beside").value = S.beside; $("panel").value = S.panel;
  const method = methodOf(S.method);
  $("about").textContent = `${method.about}${method.ranks ? "" : "; asked again for each budget"}${said && !said.scores && !said.resized ? "; gives no scores" : ""}${S.show === "colours" && V.tints ? `; colours: the first three principal directions, ${percent(V.held, 1)} of the variance` : ""}`;
  $("scale").hidden = !(S.show === "heat" && said?.scores);
  if (!$("scale").hidden) {
    $("low").textContent = `score ${short(said.low, 4)}`; $("high").textContent = said.high > said.low ? short(said.high, 4) : "for all";
    const pen = $("legend").getContext("2d"), bar = heat(Float32Array.from({ length: 180 }, (_, i) => i), 0, 179, V.about.heat, 255, 0), image = new ImageData(180, 12);
    for (let y = 0; y < 12; y++) new Uint32Array(image.data.buffer).set(bar, 180 * y);
    pen.putImageData(image, 0, 0);
  }
  const { path, name } = V.doc, heated = S.show === "heat" && Boolean(said?.scores);
  const command = commandOf({ path, name, method: S.method, budget: S.budget, text: methodOf(S.method).text && S.text, fps: V.doc.asked.fps, views: V.doc.asked.views, model: V.about.model.option, heat: heated });
  $("command").replaceChildren(...command.split(/(?<= )/).map((word) => make("span", { textContent: word }))); // lines end between words
}

// ---- time

export async function timeline() {
  const item = V.doc.items[0], id = V.doc.id;
  $("timeline").hidden = item.grid[0] < 2;
  $("timeline").replaceChildren(...(item.grid[0] < 2 ? [] : item.times_s.map((time, t) => {
    const button = make("button", { type: "button", onclick: () => setTime(t) }, make("img", { alt: "" }), make("span", { textContent: seconds(time) }), make("span", { className: "bar" }, make("span")), make("span"));
    return make("li", {}, button);
  })));
  for (const [t, li] of [...$("timeline").children].entries()) {
    const blob = await trying(() => server.frame(id, item.frames[t], 128));
    if (!blob || V.doc.id !== id) return;
    const picture = li.querySelector("img");
    picture.src = URL.createObjectURL(blob);
    picture.onload = () => URL.revokeObjectURL(picture.src);
  }
}

function counts() {
  const item = V.doc.items[0], said = V.told[0]?.name === S.method ? V.told[0] : undefined;
  if (item.grid[0] < 2 || !said) return;
  const cells = item.grid[1] * item.grid[2], found = said.resized ? undefined : countsOf(V.places, item, keptOf(said));
  for (const [t, li] of [...$("timeline").children].entries()) {
    const button = li.firstElementChild, [, , bar, text] = button.children;
    bar.firstElementChild.style.width = found ? `${(100 * found[t]) / cells}%` : "0";
    text.textContent = found ? `${number(found[t])} of ${number(cells)}` : "";
    button.setAttribute("aria-current", String(t === S.t));
  }
}

export function setTime(t) {
  S.t = Math.min(Math.max(0, t), V.doc.items[0].grid[0] - 1);
  S.row = -1;
  $("timeline").children[S.t]?.scrollIntoView({ block: "nearest", inline: "nearest" });
  remember(); redraw();
  return drawFrame();
}
