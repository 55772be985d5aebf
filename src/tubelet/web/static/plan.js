// Numbers as text: pure functions, without a document.

const count = new Intl.NumberFormat("en-US");

export const number = (value) => count.format(value);

/** At most so many significant digits, and no more than it has. */
export function short(value, digits = 3) {
  if (!Number.isFinite(value)) return "none";
  return Math.abs(value) >= 1000 ? count.format(Math.round(value)) : String(Number(value.toPrecision(digits)));
}

export const bytes = (value) => value >= 2 ** 30 ? `${short(value / 2 ** 30)} GiB` : `${short(value / 2 ** 20)} MiB`;
export const flops = (value) => value >= 1e12 ? `${short(value / 1e12)} TFLOP` : `${short(value / 1e9)} GFLOP`;
export const seconds = (value) => `${value.toFixed(2)} s`;
export const percent = (part, whole) => `${short((100 * part) / whole)} %`;

/** Rows of the table of costs. */
export function costRows(plan) {
  const [width, height] = plan.resized, rows = [
    ["resized to", `${number(width)} x ${number(height)}`],
    ["grid", plan.grid.join(" x ")],
    ["patches", number(plan.patches)],
    ["tokens", number(plan.tokens)],
    ["work", flops(plan.flop)],
    ["memory of the encoder", bytes(plan.memory_bytes)],
  ];
  if (plan.frames > 1) rows.unshift(["frames", number(plan.frames)]);
  if (plan.kv_bytes !== null) rows.push(["KV cache", bytes(plan.kv_bytes)]);
  return rows;
}

/** A word of a shell, quoted where it has to be. */
export function quoted(text) {
  const safe = text.startsWith("-") ? `./${text}` : text;
  return /^[\w./:,%=+-]+$/.test(safe) ? safe : `'${safe.replaceAll("'", "'\\''")}'`;
}

/** The command that keeps the same tokens. */
export function commandOf({ path, name, method, budget, text, fps, views, model, heat }) {
  const words = ["tubelet", "select", quoted(path || name), "--method", method, "--budget", String(budget)];
  if (text) words.push("--text", quoted(text));
  if (fps) words.push("--fps", String(fps));
  if (views) words.push("--views", quoted(views));
  if (model) words.push("--model", quoted(model));
  if (heat) words.push("--heat");
  return words.join(" ");
}

/** State behind the token of the address: `#TOKEN&method=edges&budget=64`. */
export function readState(fragment) {
  const [token, ...rest] = fragment.replace(/^#/, "").split("&");
  return { token, state: Object.fromEntries(new URLSearchParams(rest.join("&"))) };
}

export function writeState(token, state) {
  const known = Object.entries(state).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return `#${token}&${new URLSearchParams(known.map(([k, v]) => [k, String(v)]))}`;
}
