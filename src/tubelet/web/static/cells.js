// The cells of an item: where they are on a canvas, which rows stand in them, and which of those are kept.

import { edges, keptByRank, rowsOf } from "./draw.js";
import { panel, S, V } from "./state.js";

/** Edges of the cells of an item on a canvas, in its pixels. */
export function placed(box, [t, h, w], canvas) {
  const [left, top, right, bottom] = panel().extent, across = canvas.width / (right - left), down = canvas.height / (bottom - top);
  return { xs: edges((box[0] - left) * across, (box[2] - left) * across, w), ys: edges((box[1] - top) * down, (box[3] - top) * down, h) };
}

/** Rows of the cells of an item in the frame that is looked at; found once. */
export function rowsNow(item) {
  const t = Math.min(S.t, item.grid[0] - 1);
  if (item.table?.t !== t) item.table = { t, rows: rowsOf(V.places, item, t) };
  return item.table.rows;
}

/** 1 for each row that is kept by what a pane was told. */
export function keptOf(said) {
  if (said.ranks) {
    if (said.at !== S.budget) { said.at = S.budget; said.now = keptByRank(said.ranks, S.budget); }
    return said.now;
  }
  return said.kept;
}
