// Beside the picture: questions, costs, and what is taken along.

import { Refused } from "./net.js";
import { costRows, number, percent, seconds } from "./plan.js";
import { redraw, setTime } from "./stage.js";
import { $, later, make, S, server, trying, V } from "./state.js";

// ---- questions

export async function askReader(question) {
  $("answer").textContent = "...";
  V.answered = [];
  await trying(async () => {
    const answer = await server.post("api/ask", { id: V.doc.id, question });
    const lines = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", said = "";
    for (let piece = await lines.read(); !piece.done; piece = await lines.read()) {
      const parts = (rest + piece.value).split("\n");
      rest = parts.pop();
      for (const line of parts.map((part) => JSON.parse(part))) {
        if (line.error) throw new Refused(422, line.message);
        if (line.text) said += line.text;
        if (line.look) $("answer").textContent = `look ${number(line.look)} of ${number(line.of)} ...`;
        if (line.done) {
          V.answered = line.places || [];
          if (V.answered.length && V.answered[0].frame !== S.t) setTime(V.answered[0].frame);
          const notes = [line.sure === false ? "not sure" : "", line.untrained ? "UNTRAINED: random weights, this means nothing" : "", `${number(line.tokens.visual)} visual tokens, ${seconds(line.seconds.answer)}`];
          said = `${said.trim() || "it is not there"}\n(${notes.filter(Boolean).join("; ")})`;
          redraw();
        }
        if (!line.look) $("answer").textContent = said;
      }
    }
  });
}

// ---- costs

export async function plan() {
  const query = new URLSearchParams({ width: $("width").value, height: $("height").value, budget: S.budget });
  if (V.doc.is_video) { query.set("duration", $("lasting").value); query.set("fps", $("rate").value); }
  if (S.llm) query.set("llm", S.llm);
  if (V.doc.asked.views) query.set("views", V.doc.asked.views);
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

export const planSoon = later(150, plan);

// ---- what is taken along

export async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here";
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

export function save() {
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
  const captions = shown.map((figure) => figure.querySelector("figcaption").textContent).filter(Boolean);
  pen.fillText(`${V.doc.name}: ${(S.beside ? captions : [S.method, $("kept").textContent, ...captions]).join(S.beside ? " | " : ", ")}`, gap, sheet.height - gap - line, sheet.width - 2 * gap);
  pen.fillText(`${V.about.model.name}${V.about.model.untrained ? ", UNTRAINED" : ""}`, gap, sheet.height - gap, sheet.width - 2 * gap);
  sheet.toBlob((blob) => {
    const link = make("a", { href: URL.createObjectURL(blob), download: `${V.doc.name.replace(/[^\w.-]+/g, "_")}.kept.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}
