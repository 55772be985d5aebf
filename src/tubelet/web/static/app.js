// The page: what is open, how it is looked at, and what is drawn of it. Text of files is only ever text.

import { NEVER, countsOf, edges, heat, keptByRank, lineWidth, paint, partAt, rgba, rowsOf } from "./draw.js";
import { Server, Refused, choiceOf } from "./net.js";
import { commandOf, costRows, number, percent, readState, seconds, short, writeState } from "./plan.js";

const $ = (id) => document.getElementById(id);
const { token, state: given } = readState(location.hash);
const server = new Server(token);
const S = { method: "divprune", budget: 0, beside: "", show: "kept", t: 0, panel: 0, text: "", row: -1, llm: "", context: 32768, rule: "qwen2.5-vl" };
const SHOWS = ["kept", "heat", "colours", "grid"];
const KEPT = rgba(255, 170, 0), WHITE = rgba(255, 255, 255), HAIR = rgba(0, 96, 224, 170), CLEAR = rgba(255, 170, 0, 70);
const VEILS = { true: rgba(205, 211, 222, 170), false: rgba(22, 23, 26, 150) }; // of a page, of a photograph
const HAIRS = { true: [CLEAR, rgba(180, 187, 201, 190)], false: [CLEAR, rgba(74, 76, 82, 165)] }; // on kept cells, and on that veil
let about, doc, places, positions, tints, told = [], choices = new Map(), frames = new Map(), drawing = 0, opening = 0;

// ---- small things

function make(name, props = {}, ...children) {
  const node = Object.assign(document.createElement(name), props);
  node.append(...children);
  return node;
}

function alarm(text) {
  $("alarm").textContent = text;
  $("alarm").hidden = !text;
}

/** Runs what may be refused, and says so. */
async function trying(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (!(error instanceof Refused)) throw error;
    alarm(error.status === 401 ? "Open the whole address that tubelet serve printed: its token is missing here." : error.message);
    return undefined;
  }
}

function later(wait, work) {
  let timer = 0;
  return (...args) => { clearTimeout(timer); timer = setTimeout(() => work(...args), wait); };
}

const pairs = (list, rows) => list.replaceChildren(...rows.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
const clip = () => doc.items.some((item) => item.grid[0] > 1);
const panel = () => doc.panels[Math.min(S.panel, doc.panels.length - 1)];
const own = () => panel().items.map((i) => doc.items[i]);
const methodOf = (name) => about.methods.find((one) => one.name === name);

// ---- what is open

async function openWith(name, request) {
  const mine = ++opening;
  alarm("");
  $("busy").textContent = `Reading ${name} ...`;
  $("busy").hidden = false;
  const found = await trying(request);
  if (mine !== opening) return;
  $("busy").hidden = true;
  if (found) await show(found);
}

const how = () => ({ ...($("fps").value && { fps: Number($("fps").value) }), ...($("views").value.trim() && { views: $("views").value.trim() }) });
const openFile = (file) => openWith(file.name, () => server.open(file, how()));
const openNamed = (body, name) => openWith(name, async () => (await server.post("api/open", { ...body, ...how() })).json());

async function show(found) {
  const same = doc && doc.name === found.name;
  const [cells, ids] = await Promise.all([server.bytes(`api/positions/${found.id}`), server.bytes(`api/positions/${found.id}?rule=${S.rule}`)]);
  for (const bitmap of frames.values()) bitmap.then((one) => one.close(), () => {});
  doc = found; places = new Int32Array(cells); positions = new Int32Array(ids); tints = undefined;
  choices = new Map(); frames = new Map();
  S.row = -1; S.t = same ? Math.min(S.t, doc.items[0].grid[0] - 1) : 0; S.panel = 0;
  if (given.t) { S.t = Math.min(Number(given.t) || 0, doc.items[0].grid[0] - 1); delete given.t; }
  S.budget = Math.min(S.budget || Math.max(1, Math.round(doc.tokens / 4)), doc.tokens);
  if (methodOf(S.method)?.video && !doc.is_video) S.method = "divprune";
  $("drop").hidden = true; $("looks").hidden = $("side").hidden = false;
  for (const node of document.querySelectorAll(".clip")) node.hidden = !doc.is_video;
  $("budget").max = $("count").max = doc.tokens;
  $("view").hidden = doc.panels.length < 2;
  $("panel").replaceChildren(...doc.panels.map((one, i) => make("option", { value: i, textContent: one.items.length > 1 ? `${one.items.length} tiles` : one.items.length === doc.items.length ? "the picture" : `view ${one.items[0] + 1}` })));
  $("width").value = doc.width; $("height").value = doc.height;
  $("rate").value = doc.asked.fps || 2; $("lasting").value = (doc.duration_s || 1).toFixed(2);
  facts(); methods(); timeline(); layout(); plan();
  await Promise.all([choose(), drawFrame()]);
}

function facts() {
  const first = doc.items[0], rows = [
    ["name", doc.name],
    ["size", `${number(doc.width)} x ${number(doc.height)} pixels`],
    ...(doc.is_video ? [["frames", `${number(doc.frames)} of ${doc.duration_s === null ? "?" : seconds(doc.duration_s)}`]] : []),
    ["grid", doc.items.length > 1 ? `${doc.items.length} views` : first.grid.join(" x ")],
    ["patches", number(doc.patches)],
    ["tokens", number(doc.tokens)],
    ["reading", seconds(doc.seconds.read)],
    ["encoding", seconds(doc.seconds.encode)],
    ...doc.notes.map((note) => ["note", note]),
    ...(doc.complete ? [] : [["damaged", "not all of it could be read"]]),
  ];
  $("facts").replaceChildren(...rows.flatMap(([k, v]) => [make("dt", { textContent: k }), make("dd", { textContent: v })]));
}

// ---- what is chosen

function methods() {
  const usable = about.methods.filter((one) => one.why === null && !(one.video && !doc.is_video));
  const options = () => usable.map((one) => make("option", { value: one.name, textContent: one.name, disabled: one.text && !S.text }));
  $("method").replaceChildren(...options());
  $("beside").replaceChildren(make("option", { value: "", textContent: "nothing" }), ...options());
  if (!usable.some((one) => one.name === S.method && (!one.text || S.text))) S.method = "divprune";
  if (!usable.some((one) => one.name === S.beside && (!one.text || S.text))) S.beside = "";
}

const keyOf = (name) => `${name}/${methodOf(name).text ? S.text : ""}/${methodOf(name).ranks ? "" : S.budget}`;

/** What a method says at this budget; asked once. */
function choiceFor(name) {
  const key = keyOf(name), id = doc.id;
  if (!choices.has(key)) {
    const query = new URLSearchParams({ budget: S.budget, ...(methodOf(name).text && { text: S.text }) });
    const asked = server.bytes(`api/scores/${id}/${name}?${query}`).then(choiceOf);
    asked.catch(() => choices.delete(key));
    choices.set(key, asked);
    if (choices.size > 64) choices.delete(choices.keys().next().value);
  }
  return choices.get(key);
}

async function choose() {
  const names = S.beside ? [S.method, S.beside] : [S.method];
  await Promise.all(names.map(async (name, pane) => {
    const key = keyOf(name), id = doc.id;
    $("panes").children[pane].firstElementChild.classList.toggle("waiting", told[pane]?.key !== key);
    const found = await trying(() => choiceFor(name));
    if (!found || doc.id !== id || key !== keyOf(name)) return; // another wish came meanwhile
    told[pane] = { ...found, name, key };
    if (found.scores) told[pane].fill = heat(found.scores, found.low, found.high, about.heat, 185, rgba(60, 60, 64, 200));
    $("panes").children[pane].firstElementChild.classList.remove("waiting");
    redraw();
  }));
}

const chooseSoon = later(150, choose);

function setBudget(value) {
  S.budget = Math.min(Math.max(1, Math.round(value) || 1), doc.tokens);
  const waits = [S.method, S.beside].filter((name) => name && !methodOf(name).ranks);
  if (waits.length) {
    waits.forEach((name) => $("panes").children[name === S.method ? 0 : 1].firstElementChild.classList.add("waiting"));
    chooseSoon();
  }
  redraw(); planSoon(); remember();
}

async function setMethod(name) { S.method = name; remember(); redraw(); await choose(); }

async function setShow(name) {
  S.show = name;
  if (name === "colours" && !tints) {
    const id = doc.id, found = await trying(() => server.bytes(`api/colours/${id}`));
    if (!found || doc.id !== id) return;
    const rgb = new Uint8Array(found);
    tints = Uint32Array.from({ length: doc.tokens }, (_, i) => rgba(rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 235));
  }
  remember(); redraw();
}

/** 1 for each row that is kept by what a pane was told. */
function keptOf(said) {
  if (said.ranks) {
    if (said.at !== S.budget) { said.at = S.budget; said.now = keptByRank(said.ranks, S.budget); }
    return said.now;
  }
  return said.kept;
}

// ---- what is drawn

function layout() {
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

const frameNow = () => doc.items[panel().items[0]].frames[Math.min(S.t, doc.items[panel().items[0]].grid[0] - 1)];

function bitmapOf(frame) {
  if (!frames.has(frame)) {
    const asked = server.frame(doc.id, frame).then((blob) => createImageBitmap(blob));
    asked.catch(() => frames.delete(frame));
    frames.set(frame, asked);
    if (frames.size > 12) { const [old] = frames.keys(); frames.get(old).then((one) => one.close(), () => {}); frames.delete(old); }
  }
  return frames.get(frame);
}

async function drawFrame() {
  const id = doc.id, frame = frameNow(), bitmap = await trying(() => bitmapOf(frame));
  if (!bitmap || doc.id !== id || frame !== frameNow()) return;
  const [left, top, right, bottom] = panel().extent, scale = bitmap.width / doc.width;
  for (const canvas of document.querySelectorAll("canvas.pixels")) {
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#808080";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, left * scale, top * scale, (right - left) * scale, (bottom - top) * scale, 0, 0, canvas.width, canvas.height);
  }
  document.body.dataset.drawn = `${doc.id} ${frame}`;
  redraw();
}

function redraw() {
  if (!drawing) drawing = requestAnimationFrame(() => { drawing = 0; if (doc) drawNow(); });
}

/** Edges of the cells of an item on a canvas, in its pixels. */
function placed(box, [t, h, w], canvas) {
  const [left, top, right, bottom] = panel().extent, across = canvas.width / (right - left), down = canvas.height / (bottom - top);
  return { xs: edges((box[0] - left) * across, (box[2] - left) * across, w), ys: edges((box[1] - top) * down, (box[3] - top) * down, h) };
}

function drawNow() {
  const start = performance.now();
  [S.method, S.beside].forEach((name, pane) => { if (name) drawPane(pane, told[pane]?.name === name ? told[pane] : undefined, name); });
  sayKept(); counts(); mark();
  document.body.dataset.redraw = (performance.now() - start).toFixed(2);
  for (const id of ["budget", "count"]) if (document.activeElement !== $(id) || $(id).value !== String(S.budget)) $(id).value = S.budget;
  $("budget").setAttribute("aria-valuetext", `${number(S.budget)} of ${number(doc.tokens)} tokens`);
}

function drawPane(pane, said, name) {
  const figure = $("panes").children[pane], canvas = figure.querySelector(".cells");
  const pen = canvas.getContext("2d"), image = new ImageData(canvas.width, canvas.height), out = new Uint32Array(image.data.buffer);
  const kept = said && !said.resized ? keptOf(said) : undefined;
  for (const item of own()) {
    const rows = rowsNow(item), fill = new Uint32Array(rows.length), on = new Uint8Array(rows.length), veil = VEILS[doc.page];
    const colours = S.show === "colours" ? tints : S.show === "heat" ? said?.fill : undefined;
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i];
      on[i] = row >= 0 && kept ? kept[row] : 0;
      fill[i] = S.show === "grid" || !said ? 0 : row < 0 ? veil : colours ? colours[row] : said.resized || on[i] || S.show === "colours" ? 0 : veil;
    }
    const lines = S.show === "grid" || S.show === "colours" ? undefined : on;
    const cells = said?.resized && S.show === "kept" ? [] : [{ ...placed(item.box, item.grid, canvas), fill, kept: lines, line: S.show === "heat" ? WHITE : KEPT, grid: S.show === "grid" ? [HAIR, HAIR] : S.show === "kept" ? HAIRS[doc.page] : undefined }];
    cells.forEach((view) => paint(out, canvas.width, view));
  }
  if (said?.resized && S.show === "kept") for (const item of said.resized.items) {
    const [, h, w] = item.grid;
    paint(out, canvas.width, { ...placed(item.box, item.grid, canvas), fill: new Uint32Array(h * w), kept: undefined, line: KEPT, grid: [KEPT, KEPT] });
  }
  pen.putImageData(image, 0, 0);
  if (pane === 0) drawAnswer(pen, canvas);
  const many = S.beside ? ` · ${keptText(said)}` : "";
  figure.querySelector("figcaption").textContent = S.beside || clip() ? `${S.beside ? name + many : ""}${S.beside && clip() ? " · " : ""}${clip() ? `at ${seconds(own()[0].times_s[S.t])}` : ""}` : "";
}

/** Rows of the cells of an item in the frame that is looked at; found once. */
function rowsNow(item) {
  const t = Math.min(S.t, item.grid[0] - 1);
  if (item.table?.t !== t) item.table = { t, rows: rowsOf(places, item, t) };
  return item.table.rows;
}

function keptText(said) {
  if (!said) return "asking ...";
  if (said.resized) return `${number(said.resized.rows)} on a grid of ${said.resized.items[0].grid.join(" x ")}`;
  let many = 0;
  for (const one of keptOf(said)) many += one;
  const asked = said.ranks || said.budget === S.budget ? "" : ", asking for more";
  return `${number(many)} of ${number(doc.tokens)} (${percent(many, doc.tokens)})${asked}`;
}

function sayKept() {
  const said = told[0]?.name === S.method ? told[0] : undefined, [first, ...rest] = keptText(said).split(" ");
  $("kept").replaceChildren(make("b", { textContent: first }), ` ${rest.join(" ")} tokens kept`.replace("... tokens kept", "..."));
  for (const button of $("shows").children) button.setAttribute("aria-pressed", String(button.dataset.show === S.show));
  $("shows").querySelector('[data-show="heat"]').disabled = Boolean(said && !said.scores);
  $("method").value = S.method; $("beside").value = S.beside; $("panel").value = S.panel;
  const method = methodOf(S.method);
  $("about").textContent = `${method.about}${method.ranks ? "" : "; asked again for each budget"}${said && !said.scores && !said.resized ? "; gives no scores" : ""}`;
  $("scale").hidden = !(S.show === "heat" && said?.scores);
  if (!$("scale").hidden) {
    $("low").textContent = `score ${short(said.low, 4)}`; $("high").textContent = said.high > said.low ? short(said.high, 4) : "for all";
    const pen = $("legend").getContext("2d"), bar = heat(Float32Array.from({ length: 180 }, (_, i) => i), 0, 179, about.heat, 255, 0), image = new ImageData(180, 12);
    for (let y = 0; y < 12; y++) new Uint32Array(image.data.buffer).set(bar, 180 * y);
    pen.putImageData(image, 0, 0);
  }
  const { path, name } = doc, heated = S.show === "heat";
  $("command").textContent = commandOf({ path, name, method: S.method, budget: S.budget, text: methodOf(S.method).text && S.text, fps: doc.asked.fps, views: doc.asked.views, model: about.model.option, heat: heated });
}

// ---- time

async function timeline() {
  const item = doc.items[0], id = doc.id;
  $("timeline").hidden = item.grid[0] < 2;
  $("timeline").replaceChildren(...(item.grid[0] < 2 ? [] : item.times_s.map((time, t) => {
    const button = make("button", { type: "button", onclick: () => setTime(t) }, make("img", { alt: "" }), make("span", { textContent: seconds(time) }), make("span", { className: "bar" }, make("span")), make("span"));
    return make("li", {}, button);
  })));
  for (const [t, li] of [...$("timeline").children].entries()) {
    const blob = await trying(() => server.frame(id, item.frames[t], 128));
    if (!blob || doc.id !== id) return;
    const picture = li.querySelector("img");
    picture.src = URL.createObjectURL(blob);
    picture.onload = () => URL.revokeObjectURL(picture.src);
  }
}

function counts() {
  const item = doc.items[0], said = told[0]?.name === S.method ? told[0] : undefined;
  if (item.grid[0] < 2 || !said) return;
  const cells = item.grid[1] * item.grid[2], found = said.resized ? undefined : countsOf(places, item, keptOf(said));
  for (const [t, li] of [...$("timeline").children].entries()) {
    const button = li.firstElementChild, [, , bar, text] = button.children;
    bar.firstElementChild.style.width = found ? `${(100 * found[t]) / cells}%` : "0";
    text.textContent = found ? `${number(found[t])} of ${number(cells)}` : "";
    button.setAttribute("aria-current", String(t === S.t));
  }
}

function setTime(t) {
  S.t = Math.min(Math.max(0, t), doc.items[0].grid[0] - 1);
  S.row = -1;
  $("timeline").children[S.t]?.scrollIntoView({ block: "nearest", inline: "nearest" });
  remember(); redraw();
  return drawFrame();
}

// ---- one token

function pointed(canvas, x, y) {
  for (const item of own()) {
    const { xs, ys } = placed(item.box, item.grid, canvas), w = partAt(xs, x), h = partAt(ys, y);
    if (w >= 0 && h >= 0) return rowsNow(item)[h * item.grid[2] + w];
  }
  return -1;
}

const itemOf = (row) => doc.items.find((item) => row >= item.start && row < item.start + item.rows);

function mark() {
  const shown = S.row >= 0 && own().includes(itemOf(S.row));
  for (const figure of $("panes").children) {
    const box = figure.querySelector(".mark"), canvas = figure.querySelector(".cells");
    box.hidden = !shown;
    if (!shown) continue;
    const item = itemOf(S.row), { xs, ys } = placed(item.box, item.grid, canvas), [h, w] = places.subarray(3 * S.row + 1, 3 * S.row + 3);
    const scale = canvas.clientWidth / canvas.width;
    Object.assign(box.style, { left: `${xs[w] * scale}px`, top: `${ys[h] * scale}px`, width: `${(xs[w + 1] - xs[w]) * scale}px`, height: `${(ys[h + 1] - ys[h]) * scale}px` });
  }
  if (!shown) {
    pairs($("readout"), [["token", "point at one, or use the arrow keys"]]);
    return;
  }
  const [t, h, w] = places.subarray(3 * S.row, 3 * S.row + 3), at = positions.subarray(3 * S.row, 3 * S.row + 3), many = Boolean(S.beside);
  const said = [S.method, S.beside].flatMap((name, pane) => {
    const one = told[pane], by = many ? ` by ${name}` : "";
    if (!name || one?.name !== name) return [];
    if (one.resized) return [[`kept${by}`, "no rows of its own"]];
    const rank = one.ranks && one.ranks[S.row] !== NEVER ? [[`rank${by}`, `${number(one.ranks[S.row] + 1)} of ${number(doc.tokens)}`]] : [];
    return [...(one.scores ? [[`score${by}`, Number.isFinite(one.scores[S.row]) ? short(one.scores[S.row], 4) : "none"]] : []), ...rank, [`kept${by}`, keptOf(one)[S.row] ? "yes" : "no"]];
  });
  pairs($("readout"), [["token", number(S.row)], ["place t, h, w", `${t}, ${h}, ${w}`], ["time", seconds(itemOf(S.row).times_s[t])], [`position (${S.rule})`, `${at[0]}, ${at[1]}, ${at[2]}`], ...said]);
}

function move(dh, dw) {
  const item = S.row >= 0 ? itemOf(S.row) : own()[0], [, high, wide] = item.grid, rows = rowsNow(item);
  let [h, w] = S.row >= 0 ? places.subarray(3 * S.row + 1, 3 * S.row + 3) : [Math.floor(high / 2) - dh, Math.floor(wide / 2) - dw];
  do { h += dh; w += dw; } while (h >= 0 && h < high && w >= 0 && w < wide && rows[h * wide + w] < 0);
  if (h >= 0 && h < high && w >= 0 && w < wide) S.row = rows[h * wide + w];
  mark();
}

// ---- questions

let answered = [];

function drawAnswer(pen, canvas) {
  const [left, top, right] = panel().extent, scale = canvas.width / (right - left);
  pen.strokeStyle = "#0a84ff";
  pen.lineWidth = 3;
  for (const { frame, box } of answered) if (frame === S.t) pen.strokeRect((box[0] - left) * scale, (box[1] - top) * scale, (box[2] - box[0]) * scale, (box[3] - box[1]) * scale);
}

async function askReader(question) {
  $("answer").textContent = "...";
  answered = [];
  await trying(async () => {
    const answer = await server.post("api/ask", { id: doc.id, question });
    const lines = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", said = "";
    for (let piece = await lines.read(); !piece.done; piece = await lines.read()) {
      const parts = (rest + piece.value).split("\n");
      rest = parts.pop();
      for (const line of parts.map((part) => JSON.parse(part))) {
        if (line.error) throw new Refused(422, line.message);
        if (line.text) said += line.text;
        if (line.done) {
          answered = line.places || [];
          const notes = [line.sure === false ? "not sure" : "", line.untrained ? "UNTRAINED: random weights, this means nothing" : "", `${number(line.tokens.visual)} visual tokens, ${seconds(line.seconds.answer)}`];
          said = `${said.trim() || "it is not there"}\n(${notes.filter(Boolean).join("; ")})`;
          redraw();
        }
        $("answer").textContent = said;
      }
    }
  });
}

// ---- costs

async function plan() {
  const query = new URLSearchParams({ width: $("width").value, height: $("height").value, budget: S.budget });
  if (doc.is_video) { query.set("duration", $("lasting").value); query.set("fps", $("rate").value); }
  if (S.llm) query.set("llm", S.llm);
  if (doc.asked.views) query.set("views", doc.asked.views);
  let found;
  try {
    found = await server.json(`api/plan?${query}`);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    $("planned").textContent = error.message;
    return;
  }
  $("costs").tBodies[0].replaceChildren(...costRows(found).map(([name, value]) => make("tr", {}, make("th", { scope: "row", textContent: name }), make("td", { textContent: value }))));
  const part = found.tokens / S.context;
  $("share").querySelector(".bar span").style.width = `${Math.min(100, 100 * part)}%`;
  $("shared").textContent = `${percent(found.tokens, S.context)} of ${number(S.context)} tokens of context`;
  $("planned").textContent = found.notes.join("; ");
}

const planSoon = later(150, plan);

// ---- what is taken along

function stateNow() {
  return { doc: doc.id, ...doc.again, method: S.method, beside: S.beside, budget: S.budget, show: S.show, t: S.t || null, panel: S.panel || null, text: S.text, llm: S.llm, context: S.context };
}

const remember = later(200, () => doc && history.replaceState(null, "", writeState(token, stateNow())));

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here";
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

function save() {
  const shown = [...$("panes").children].filter((figure) => !figure.hidden), sheet = document.createElement("canvas"), gap = 16, line = 26;
  const sizes = shown.map((figure) => figure.querySelector(".cells"));
  sheet.width = Math.max(480, sizes.reduce((sum, one) => sum + one.width + gap, gap)); sheet.height = Math.max(...sizes.map((one) => one.height)) + 2 * gap + 2 * line;
  const pen = sheet.getContext("2d");
  pen.fillStyle = "#faf9f6"; pen.fillRect(0, 0, sheet.width, sheet.height);
  let x = gap;
  for (const figure of shown) {
    for (const canvas of figure.querySelectorAll("canvas")) pen.drawImage(canvas, x, gap);
    x += sizes[0].width + gap;
  }
  pen.fillStyle = "#202124"; pen.font = "16px system-ui, sans-serif";
  pen.fillText(`${doc.name}: ${[S.method, S.beside].filter(Boolean).join(" | ")}, ${$("kept").textContent}`, gap, sheet.height - gap - line, sheet.width - 2 * gap);
  pen.fillText(`${about.model.name}${about.model.untrained ? ", UNTRAINED" : ""}`, gap, sheet.height - gap, sheet.width - 2 * gap);
  sheet.toBlob((blob) => {
    const link = make("a", { href: URL.createObjectURL(blob), download: `${doc.name.replace(/[^\w.-]+/g, "_")}.kept.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

// ---- hands

function wire() {
  $("file").onchange = () => { if ($("file").files[0]) openFile($("file").files[0]); $("file").value = ""; };
  for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) addEventListener(name, (event) => { event.preventDefault(); document.body.classList.toggle("over", over); });
  addEventListener("drop", (event) => { if (event.dataTransfer?.files[0]) openFile(event.dataTransfer.files[0]); });
  $("given").onchange = () => openChosen($("given").value);
  $("budget").oninput = () => setBudget(Number($("budget").value));
  $("count").oninput = () => { if ($("count").value) setBudget(Number($("count").value)); };
  $("method").onchange = () => setMethod($("method").value);
  $("beside").onchange = () => { S.beside = $("beside").value; remember(); layout(); drawFrame(); choose(); };
  $("panel").onchange = () => { S.panel = Number($("panel").value); S.row = -1; remember(); layout(); drawFrame(); };
  for (const button of $("shows").children) button.onclick = () => setShow(button.dataset.show);
  for (const form of document.forms) form.onsubmit = (event) => event.preventDefault();
  $("comparing").addEventListener("submit", () => look($("text").value.trim()));
  $("asking").addEventListener("submit", () => { const question = $("question").value.trim(); if (question) about.reader ? askReader(question) : look(question); });
  $("reading").addEventListener("submit", () => openNamed({ doc: doc.id }, doc.name));
  for (const id of ["width", "height", "rate", "lasting"]) $(id).oninput = planSoon;
  $("llm").onchange = () => { S.llm = $("llm").value; remember(); plan(); };
  $("context").oninput = () => { S.context = Math.max(1, Number($("context").value) || 1); remember(); planSoon(); };
  $("rule").onchange = async () => {
    const rule = $("rule").value, id = doc.id, found = await trying(() => server.bytes(`api/positions/${id}?rule=${rule}`));
    if (found && doc.id === id) { S.rule = rule; positions = new Int32Array(found); mark(); }
  };
  $("save").onclick = save;
  $("link").onclick = () => copy(location.origin + location.pathname + writeState(token, stateNow()), $("link"));
  $("copy").onclick = () => copy($("command").textContent, $("copy"));
  for (const canvas of document.querySelectorAll("canvas.cells")) {
    canvas.onpointermove = (event) => {
      const scale = canvas.width / canvas.clientWidth;
      S.row = pointed(canvas, event.offsetX * scale, event.offsetY * scale);
      mark();
    };
    canvas.onpointerdown = canvas.onpointermove;
    canvas.onkeydown = keys;
  }
  addEventListener("resize", later(100, () => { if (doc) { layout(); drawFrame(); } }));
}

function look(text) {
  S.text = text; $("text").value = text;
  methods();
  if (text && !methodOf(S.method).text) S.method = "text";
  setShow(text ? "heat" : "kept");
  return choose();
}

function keys(event) {
  const step = Math.max(1, Math.round(doc.tokens / 100)), usable = [...$("method").options].filter((one) => !one.disabled).map((one) => one.value);
  const does = {
    ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0), ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1),
    "[": () => setBudget(S.budget - step), "]": () => setBudget(S.budget + step), ",": () => setTime(S.t - 1), ".": () => setTime(S.t + 1),
    m: () => setMethod(usable[(usable.indexOf(S.method) + 1) % usable.length]), s: () => setShow(SHOWS[(SHOWS.indexOf(S.show) + 1) % SHOWS.length]),
  }[event.key];
  if (!does || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  does();
}

function openChosen(value) {
  const kind = value[0], rest = value.slice(1);
  if (kind === "f") return openNamed({ file: Number(rest) }, about.files[Number(rest)]);
  return kind === "p" ? openNamed({ path: rest }, rest) : undefined;
}

async function begin() {
  wire();
  about = await trying(() => server.json("api/about"));
  if (!about) return;
  $("model").textContent = about.model.name;
  if (about.model.untrained) $("model").append(" ", make("span", { className: "alarm", textContent: "UNTRAINED: random weights, its tokens mean nothing" }));
  const options = [...about.files.map((name, i) => ["f" + i, name]), ...(about.root || []).map((path) => ["p" + path, path])];
  $("given").hidden = !options.length;
  $("given").replaceChildren(make("option", { value: "", textContent: "files at hand" }), ...options.map(([value, textContent]) => make("option", { value, textContent })));
  $("llm").replaceChildren(make("option", { value: "", textContent: "none" }), ...about.llms.map((name) => make("option", { value: name, textContent: name })));
  $("rule").replaceChildren(...about.rules.map((name) => make("option", { value: name, textContent: name })));
  $("words").hidden = !about.words;
  $("asking").hidden = !about.reader && !about.words;
  for (const name of ["method", "beside", "show", "text", "llm"]) if (given[name]) S[name] = given[name];
  for (const name of ["budget", "context"]) if (Number(given[name]) > 0) S[name] = Number(given[name]);
  if (!methodOf(S.method)) S.method = "divprune";
  if (!methodOf(S.beside)) S.beside = "";
  if (!SHOWS.includes(S.show)) S.show = "kept";
  $("llm").value = S.llm; $("context").value = S.context; $("rule").value = S.rule; $("text").value = S.text;
  await first();
  if (S.show === "colours" && doc) await setShow("colours");
}

async function first() {
  if (given.doc) {
    try {
      return await show(await server.json(`api/document/${encodeURIComponent(given.doc)}`));
    } catch (error) {
      if (!(error instanceof Refused)) throw error; // closed meanwhile: it is opened again where that can be
    }
  }
  if (given.path) return openNamed({ path: given.path }, given.path);
  const number = Number(given.file ?? 0);
  return about.files[number] === undefined ? undefined : openNamed({ file: number }, about.files[number]);
}

begin();
