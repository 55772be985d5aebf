// Cells on pixels: pure functions over typed arrays, without a document. Edges of cells are whole pixels, so that what
// is drawn can be read back.

export const NEVER = 0xffffffff; // the rank of a row that is kept at no budget

/** Pixels at which `cells` equal parts of low..high begin, and the last ends. */
export function edges(low, high, cells) {
  return Int32Array.from({ length: cells + 1 }, (_, i) => Math.round(low + ((high - low) * i) / cells));
}

/** The part that a pixel lies in, -1 for none. */
export function partAt(at, pixel) {
  if (!(pixel >= at[0]) || pixel >= at[at.length - 1]) return -1;
  let low = 0, high = at.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (at[middle] <= pixel) low = middle; else high = middle;
  }
  return low;
}

/** A colour as the 32 bits of a pixel of ImageData. */
export function rgba(red, green, blue, alpha = 255) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** 1 for the rows that a budget keeps: those of a rank below it. */
export function keptByRank(ranks, budget) {
  const kept = new Uint8Array(ranks.length);
  for (let i = 0; i < ranks.length; i++) kept[i] = ranks[i] < budget ? 1 : 0;
  return kept;
}

/** 1 for the rows whose bit is set, the first row in the lowest bit of the first byte. */
export function keptByBits(bits, rows) {
  const kept = new Uint8Array(rows);
  for (let i = 0; i < rows; i++) kept[i] = (bits[i >> 3] >> (i & 7)) & 1;
  return kept;
}

/** The row in each cell of one frame of an item, -1 for none. places: (t, h, w) of all rows. */
export function rowsOf(places, item, t) {
  const [, high, wide] = item.grid, found = new Int32Array(high * wide).fill(-1);
  for (let row = item.start; row < item.start + item.rows; row++) {
    if (places[3 * row] === t) found[places[3 * row + 1] * wide + places[3 * row + 2]] = row;
  }
  return found;
}

/** How many rows are kept of each frame of an item. */
export function countsOf(places, item, kept) {
  const counts = new Uint32Array(item.grid[0]);
  for (let row = item.start; row < item.start + item.rows; row++) counts[places[3 * row]] += kept[row];
  return counts;
}

/** The colour of each score between low (the first stop) and high (the last); one number for all: the middle. */
export function heat(scores, low, high, stops, alpha, none) {
  const steps = 256, table = new Uint32Array(steps), out = new Uint32Array(scores.length);
  for (let i = 0; i < steps; i++) {
    const at = (i / (steps - 1)) * (stops.length - 1), k = Math.min(Math.floor(at), stops.length - 2), part = at - k;
    table[i] = rgba(...stops[k].map((v, c) => Math.round(v + (stops[k + 1][c] - v) * part)), alpha);
  }
  for (let i = 0; i < scores.length; i++) {
    const at = high > low ? (scores[i] - low) / (high - low) : 0.5;
    out[i] = Number.isFinite(scores[i]) ? table[Math.round(Math.min(Math.max(at, 0), 1) * (steps - 1))] : none;
  }
  return out;
}

/** Width of the line around kept cells of this many pixels: none where cells are too small to show it. */
export function lineWidth(cell) {
  return cell >= 12 ? 2 : cell >= 4 ? 1 : 0;
}

/**
 * One view, painted into the pixels of a canvas (Uint32Array, `width` a line): each cell has its colour of `fill`, kept
 * ones a line around each region of them, and between cells is a hairline, `grid`: [on cells without a colour, on
 * others]. What is outside the canvas is cut.
 */
export function paint(out, width, { xs, ys, fill, kept, line, grid }) {
  const wide = xs.length - 1, height = out.length / width;
  const left = Math.max(xs[0], 0), right = Math.min(xs[wide], width);
  if (right <= left) return;
  const side = Math.min(xs[wide] - xs[0], 1e9) / wide, tall = (ys[ys.length - 1] - ys[0]) / (ys.length - 1);
  const thick = kept ? lineWidth(Math.min(side, tall)) : 0, hair = grid && Math.min(side, tall) >= 5;
  const middle = new Uint32Array(width), first = new Uint32Array(width), top = new Uint32Array(width), bottom = new Uint32Array(width);
  const run = (row, from, to, colour) => { for (let x = Math.max(from, 0); x < to; x++) row[x] = colour; }; // past the end nothing is kept
  for (let h = 0; h < ys.length - 1; h++) {
    const from = Math.max(ys[h], 0), to = Math.min(ys[h + 1], height), base = h * wide;
    if (to <= from) continue;
    for (let w = 0; w < wide; w++) {
      run(middle, xs[w], xs[w + 1], fill[base + w]);
      if (hair && w > 0) run(middle, xs[w], xs[w] + 1, grid[fill[base + w] ? 1 : 0]);
    }
    first.set(middle);
    if (hair && h > 0) for (let w = 0; w < wide; w++) run(first, xs[w], xs[w + 1], grid[fill[base + w] ? 1 : 0]);
    if (thick) {
      top.set(middle); bottom.set(middle);
      for (let w = 0; w < wide; w++) if (kept[base + w]) {
        const a = xs[w], b = xs[w + 1], up = !(h > 0 && kept[base + w - wide]), down = !(h < ys.length - 2 && kept[base + w + wide]);
        if (up) { run(first, a, b, line); run(top, a, b, line); }
        if (down) run(bottom, a, b, line);
        for (const [edge, end] of [[!(w > 0 && kept[base + w - 1]), a], [!(w < wide - 1 && kept[base + w + 1]), b - thick]]) {
          if (edge) for (const row of [first, top, middle, bottom]) run(row, end, end + thick, line);
        }
      }
    }
    for (let y = from; y < to; y++) {
      const at = y - ys[h], row = at === 0 ? first : at < thick ? top : ys[h + 1] - y <= thick ? bottom : middle;
      out.set(left === 0 && right === width ? row : row.subarray(left, right), y * width + left);
    }
  }
}
