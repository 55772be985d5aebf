// The page: what is open, and what hands do. Text of files is only ever text.

import { choose, look, methods, setBudget, setMethod, setShow } from "./choose.js";
import { Refused } from "./net.js";
import { number, seconds, writeState } from "./plan.js";
import { hideScene, showScene } from "./scene.js";
import { askReader, copy, plan, planSoon, save } from "./side.js";
import { drawFrame, layout, setTime, timeline } from "./stage.js";
import { $, alarm, given, later, make, methodOf, remember, S, server, SHOWS, stateNow, token, trying, V } from "./state.js";
import { mark, move, pointed } from "./token.js";

let opening = 0;

// ---- what is open

async function openWith(name, request) {
  const mine = ++opening;
  alarm("");
  $("busy").textContent = `Reading ${name} ...`;
  $("busy").hidden = false;
  try {
    const found = await trying(request);
    if (found && mine === opening) await show(found);
  } finally {
    if (mine === opening) $("busy").hidden = true;
  }
}

const how = () => ({ ...($("fps").value && { fps: Number($("fps").value) }), ...($("views").value.trim() && { views: $("views").value.trim() }) });
const openFile = (file) => openWith(file.name, () => server.open(file, how()));
const openNamed = (body, name) => openWith(name, async () => (await server.post("api/open", { ...body, ...how() })).json());

async function show(found) {
  if (found.kind === "scene") return showScene(found);
  hideScene();
  const same = V.doc && V.doc.name === found.name;
  const [cells, ids] = await Promise.all([server.bytes(`api/positions/${found.id}`), server.bytes(`api/positions/${found.id}?rule=${S.rule}`)]);
  for (const bitmap of V.frames.values()) bitmap.then((one) => one.close(), () => {});
  V.doc = found; V.places = new Int32Array(cells); V.positions = new Int32Array(ids); V.tints = undefined;
  V.choices = new Map(); V.frames = new Map(); V.told = []; V.answered = []; $("answer").textContent = "";
  S.row = -1; S.t = same ? Math.min(S.t, V.doc.items[0].grid[0] - 1) : 0; S.panel = 0;
  for (const [name, count] of [["t", V.doc.items[0].grid[0]], ["panel", V.doc.panels.length], ["row", V.doc.tokens]]) {
    if (given[name]) S[name] = Math.min(Math.max(0, Math.floor(Number(given[name])) || 0), count - 1);
    delete given[name]; // it is of the file that the link opens
  }
  S.budget = Math.min(S.budget || Math.max(1, Math.round(V.doc.tokens / 4)), V.doc.tokens);
  if (methodOf(S.method)?.video && !V.doc.is_video) S.method = "divprune";
  document.title = `${V.doc.name} - tubelet`;
  $("drop").hidden = true; $("looks").hidden = $("side").hidden = false;
  for (const node of document.querySelectorAll(".clip")) node.hidden = !V.doc.is_video;
  $("budget").max = $("count").max = V.doc.tokens;
  $("view").hidden = V.doc.panels.length < 2;
  $("panel").replaceChildren(...V.doc.panels.map((one, i) => make("option", { value: i, textContent: one.items.length > 1 ? `${one.items.length} tiles` : one.items.length === V.doc.items.length ? "the picture" : `view ${one.items[0] + 1}` })));
  $("width").value = V.doc.width; $("height").value = V.doc.height;
  $("rate").value = V.doc.asked.fps || 2; $("lasting").value = (V.doc.duration_s || 1).toFixed(2);
  facts(); methods(); timeline(); layout(); plan();
  await Promise.all([choose(), drawFrame(), S.show === "colours" ? setShow("colours") : undefined]);
}

function facts() {
  const first = V.doc.items[0], rows = [
    ["name", V.doc.name],
    ["size", `${number(V.doc.width)} x ${number(V.doc.height)} pixels`],
    ...(V.doc.is_video ? [["frames", `${number(V.doc.frames)} of ${V.doc.duration_s === null ? "?" : seconds(V.doc.duration_s)}`]] : []),
    ["grid", V.doc.items.length > 1 ? `${V.doc.items.length} views` : first.grid.join(" x ")],
    ["patches", number(V.doc.patches)],
    ["tokens", number(V.doc.tokens)],
    ["reading", seconds(V.doc.seconds.read)],
    ["encoding", seconds(V.doc.seconds.encode)],
    ...V.doc.notes.map((note) => ["note", note]),
    ...(V.doc.complete ? [] : [["damaged", "not all of it could be read"]]),
  ];
  $("facts").replaceChildren(...rows.flatMap(([k, v]) => [make("dt", { textContent: k }), make("dd", { textContent: v })]));
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
  $("asking").addEventListener("submit", () => { const question = $("question").value.trim(); if (question) V.about.reader ? askReader(question) : look(question); });
  $("reading").addEventListener("submit", () => openNamed({ doc: V.doc.id }, V.doc.name));
  for (const id of ["width", "height", "rate", "lasting"]) $(id).oninput = planSoon;
  $("llm").onchange = () => { S.llm = $("llm").value; remember(); plan(); };
  $("context").oninput = () => { S.context = Math.max(1, Number($("context").value) || 1); remember(); planSoon(); };
  $("rule").onchange = async () => {
    const rule = $("rule").value, id = V.doc.id, found = await trying(() => server.bytes(`api/positions/${id}?rule=${rule}`));
    if (found && V.doc.id === id) { S.rule = rule; V.positions = new Int32Array(found); mark(); remember(); }
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
  addEventListener("resize", later(100, () => { if (V.doc && !V.place) { layout(); drawFrame(); } }));
}

function keys(event) {
  const step = Math.max(1, Math.round(V.doc.tokens / 100)), usable = [...$("method").options].filter((one) => !one.disabled).map((one) => one.value);
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
  if (kind === "f") return openNamed({ file: Number(rest) }, V.about.files[Number(rest)]);
  return kind === "p" ? openNamed({ path: rest }, rest) : undefined;
}

async function begin() {
  wire();
  V.about = await trying(() => server.json("api/about"));
  if (!V.about) return;
  $("model").textContent = V.about.model.name;
  if (V.about.model.untrained) $("model").append(" ", make("span", { className: "alarm", textContent: "UNTRAINED: random weights, its tokens mean nothing" }));
  const options = [...V.about.files.map((name, i) => ["f" + i, name]), ...(V.about.root || []).map((path) => ["p" + path, path])];
  $("given").hidden = !options.length;
  $("given").replaceChildren(make("option", { value: "", textContent: "files at hand" }), ...options.map(([value, textContent]) => make("option", { value, textContent })));
  $("llm").replaceChildren(make("option", { value: "", textContent: "none" }), ...V.about.llms.map((name) => make("option", { value: name, textContent: name })));
  $("rule").replaceChildren(...V.about.rules.map((name) => make("option", { value: name, textContent: name })));
  $("words").hidden = !V.about.words;
  $("asking").hidden = !V.about.reader && !V.about.words;
  for (const name of ["method", "beside", "show", "text", "llm", "rule"]) if (given[name]) S[name] = given[name];
  for (const name of ["budget", "context"]) if (Number(given[name]) > 0) S[name] = Number(given[name]);
  if (!methodOf(S.method)) S.method = "divprune";
  if (!methodOf(S.beside)) S.beside = "";
  if (!SHOWS.includes(S.show)) S.show = "kept";
  if (!V.about.rules.includes(S.rule)) S.rule = V.about.rules.at(-1);
  for (const name of ["fps", "views"]) $(name).value = given[name] || "";
  $("llm").value = S.llm; $("context").value = S.context; $("rule").value = S.rule; $("text").value = S.text;
  await openFirst();
}

async function openFirst() {
  if (given.doc) {
    try {
      return await show(await server.json(`api/document/${encodeURIComponent(given.doc)}`));
    } catch (error) {
      if (!(error instanceof Refused)) throw error; // closed meanwhile: it is opened again where that can be
    }
  }
  if (given.path) return openNamed({ path: given.path }, given.path);
  const number = Number(given.file ?? 0);
  return V.about.files[number] === undefined ? undefined : openNamed({ file: number }, V.about.files[number]);
}

begin();
