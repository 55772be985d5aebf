// What is chosen: methods, their answers, the budget. The page ranks only by what a method said.

import { heat, rgba } from "./draw.js";
import { choiceOf } from "./net.js";
import { planSoon } from "./side.js";
import { redraw } from "./stage.js";
import { $, later, make, methodOf, remember, S, server, trying, V } from "./state.js";

export function methods() {
  const usable = V.about.methods.filter((one) => one.why === null && !(one.video && !V.doc.is_video));
  const options = () => usable.map((one) => make("option", { value: one.name, textContent: one.name, disabled: one.text && !S.text }));
  $("method").replaceChildren(...options());
  $("beside").replaceChildren(make("option", { value: "", textContent: "nothing" }), ...options());
  if (!usable.some((one) => one.name === S.method && (!one.text || S.text))) S.method = "divprune";
  if (!usable.some((one) => one.name === S.beside && (!one.text || S.text))) S.beside = "";
}

const keyOf = (name) => `${name}/${methodOf(name).text ? S.text : ""}/${methodOf(name).ranks ? "" : S.budget}`;

/** What a method says at this budget; asked once. */
function choiceFor(name) {
  const key = keyOf(name), id = V.doc.id;
  if (!V.choices.has(key)) {
    const query = new URLSearchParams({ budget: S.budget, ...(methodOf(name).text && { text: S.text }) });
    const asked = server.bytes(`api/scores/${id}/${name}?${query}`).then(choiceOf);
    asked.catch(() => V.choices.delete(key));
    V.choices.set(key, asked);
    if (V.choices.size > 64) V.choices.delete(V.choices.keys().next().value);
  }
  return V.choices.get(key);
}

export async function choose() {
  const names = S.beside ? [S.method, S.beside] : [S.method];
  await Promise.all(names.map(async (name, pane) => {
    const key = keyOf(name), id = V.doc.id;
    $("panes").children[pane].firstElementChild.classList.toggle("waiting", V.told[pane]?.key !== key);
    const found = await trying(() => choiceFor(name));
    if (!found || V.doc.id !== id || key !== keyOf(name)) return; // another wish came meanwhile
    V.told[pane] = { ...found, name, key };
    if (found.scores) V.told[pane].fill = heat(found.scores, found.low, found.high, V.about.heat, 185, rgba(60, 60, 64, 200));
    $("panes").children[pane].firstElementChild.classList.remove("waiting");
    redraw();
  }));
}

const chooseSoon = later(150, choose);

export function setBudget(value) {
  S.budget = Math.min(Math.max(1, Math.round(value) || 1), V.doc.tokens);
  const waits = [S.method, S.beside].filter((name) => name && !methodOf(name).ranks);
  if (waits.length) {
    waits.forEach((name) => $("panes").children[name === S.method ? 0 : 1].firstElementChild.classList.add("waiting"));
    chooseSoon();
  }
  redraw(); planSoon(); remember();
}

export async function setMethod(name) { S.method = name; remember(); redraw(); await choose(); }

export async function setShow(name) {
  S.show = name;
  if (name === "colours" && !V.tints) {
    const id = V.doc.id, found = await trying(() => server.ask(`api/colours/${id}`)), rgb = found && new Uint8Array(await found.arrayBuffer());
    if (!rgb || V.doc.id !== id) return;
    V.held = Number(found.headers.get("X-Tubelet-Share"));
    V.tints = Uint32Array.from({ length: V.doc.tokens }, (_, i) => rgba(rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 235));
  }
  remember(); redraw();
}

export function look(text) {
  S.text = text; $("text").value = text;
  methods();
  if (text && !methodOf(S.method).text) S.method = "text";
  setShow(text ? "heat" : "kept");
  return choose();
}
