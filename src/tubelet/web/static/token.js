// One token: the one that is pointed at, and its numbers.

import { keptOf, placed, rowsNow } from "./cells.js";
import { NEVER, partAt } from "./draw.js";
import { number, seconds, short } from "./plan.js";
import { $, itemOf, own, pairs, S, V } from "./state.js";

export function pointed(canvas, x, y) {
  for (const item of own()) {
    const { xs, ys } = placed(item.box, item.grid, canvas), w = partAt(xs, x), h = partAt(ys, y);
    if (w >= 0 && h >= 0) return rowsNow(item)[h * item.grid[2] + w];
  }
  return -1;
}

export function mark() {
  const shown = S.row >= 0 && own().includes(itemOf(S.row));
  for (const figure of $("panes").children) {
    const box = figure.querySelector(".mark"), canvas = figure.querySelector(".cells");
    box.hidden = !shown;
    if (!shown) continue;
    const item = itemOf(S.row), { xs, ys } = placed(item.box, item.grid, canvas), [h, w] = V.places.subarray(3 * S.row + 1, 3 * S.row + 3);
    const scale = canvas.clientWidth / canvas.width;
    Object.assign(box.style, { left: `${xs[w] * scale}px`, top: `${ys[h] * scale}px`, width: `${(xs[w + 1] - xs[w]) * scale}px`, height: `${(ys[h + 1] - ys[h]) * scale}px` });
  }
  if (!shown) {
    pairs($("readout"), [["token", "point at one, or use the arrow keys"]]);
    return;
  }
  const [t, h, w] = V.places.subarray(3 * S.row, 3 * S.row + 3), at = V.positions.subarray(3 * S.row, 3 * S.row + 3), many = Boolean(S.beside);
  const said = [S.method, S.beside].flatMap((name, pane) => {
    const one = V.told[pane], by = many ? ` by ${name}` : "";
    if (!name || one?.name !== name) return [];
    if (one.resized) return [[`kept${by}`, "no rows of its own"]];
    const rank = one.ranks && one.ranks[S.row] !== NEVER ? [[`rank${by}`, `${number(one.ranks[S.row] + 1)} of ${number(V.doc.tokens)}`]] : [];
    return [...(one.scores ? [[`score${by}`, Number.isFinite(one.scores[S.row]) ? short(one.scores[S.row], 4) : "none"]] : []), ...rank, [`kept${by}`, keptOf(one)[S.row] ? "yes" : "no"]];
  });
  pairs($("readout"), [["token", number(S.row)], ["place t, h, w", `${t}, ${h}, ${w}`], ["time", seconds(itemOf(S.row).times_s[t])], [`position (${S.rule})`, `${at[0]}, ${at[1]}, ${at[2]}`], ...said]);
}

export function move(dh, dw) {
  const item = S.row >= 0 ? itemOf(S.row) : own()[0], [, high, wide] = item.grid, rows = rowsNow(item);
  let [h, w] = S.row >= 0 ? V.places.subarray(3 * S.row + 1, 3 * S.row + 3) : [Math.floor(high / 2) - dh, Math.floor(wide / 2) - dw];
  do { h += dh; w += dw; } while (h >= 0 && h < high && w >= 0 && w < wide && rows[h * wide + w] < 0);
  if (h >= 0 && h < high && w >= 0 && w < wide) S.row = rows[h * wide + w];
  mark();
}
