// What a person has set and the link that brings it back, what the server has said, and small things that every part of
// the page uses.

import { Refused, Server } from "./net.js";
import { readState, writeState } from "./plan.js";

export const $ = (id) => document.getElementById(id);
export const { token, state: given } = readState(location.hash);
export const server = new Server(token);
/** What a person has set. */
export const S = { method: "divprune", budget: 0, beside: "", show: "kept", t: 0, panel: 0, text: "", row: -1, llm: "", context: 32768, rule: "qwen2.5-vl" };
/** What was answered: about the model, the document or the scene (place) that is open, what stands in its rows, and what methods said. */
export const V = { about: undefined, doc: undefined, place: undefined, places: undefined, positions: undefined, tints: undefined, held: 0, told: [], choices: new Map(), frames: new Map(), answered: [] };
export const SHOWS = ["kept", "heat", "colours", "grid"];

export function make(name, props = {}, ...children) {
  const node = Object.assign(document.createElement(name), props);
  node.append(...children);
  return node;
}

export function alarm(text) {
  $("alarm").textContent = text;
  $("alarm").hidden = !text;
}

/** Runs what may be refused, and says so. */
export async function trying(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (!(error instanceof Refused)) throw error;
    alarm(error.status === 401 ? "Open the whole address that tubelet serve printed: its token is missing here." : error.message);
    return undefined;
  }
}

export function later(wait, work) {
  let timer = 0;
  return (...args) => { clearTimeout(timer); timer = setTimeout(() => work(...args), wait); };
}

export const pairs = (list, rows) => list.replaceChildren(...rows.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
export const clip = () => V.doc.items.some((item) => item.grid[0] > 1);
export const panel = () => V.doc.panels[Math.min(S.panel, V.doc.panels.length - 1)];
export const own = () => panel().items.map((i) => V.doc.items[i]);
export const methodOf = (name) => V.about.methods.find((one) => one.name === name);

export const itemOf = (row) => V.doc.items.find((item) => row >= item.start && row < item.start + item.rows);

// ---- the link

export function stateNow() {
  if (V.place) return { doc: V.place.id, ...V.place.again, t: S.t || null };
  return { doc: V.doc.id, ...V.doc.again, fps: V.doc.asked.fps, views: V.doc.asked.views, method: S.method, beside: S.beside, budget: S.budget, show: S.show, t: S.t || null, panel: S.panel || null, row: S.row < 0 ? null : S.row, rule: S.rule, text: S.text, llm: S.llm, context: S.context };
}

export const remember = later(200, () => (V.place || V.doc) && history.replaceState(null, "", writeState(token, stateNow())));
