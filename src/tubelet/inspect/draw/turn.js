// Points and cameras of a scene on a canvas, turned by mouse, touch and keys. The page that `tubelet scene` writes holds
// this text, and the page of `tubelet serve` loads it: it is all they have in common.

const STEPS = 65535, MOST_PIXELS = 1600000;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function quantile(values, share) { return values.sort()[Math.min(values.length - 1, Math.floor(share * values.length))]; }

/** Points with their colours as pixels and the cameras, in a world with x to the right, y ahead and z up; and what of
 * it is looked at: nine in ten points along each axis, and all cameras. */
function worldOf(scene, steps, rgb) {
  const turned = ([x, y, z]) => scene.axes.map((a) => a[0] * x + a[1] * y + a[2] * z), count = scene.count;
  const place = new Float32Array(3 * count), inks = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    place.set(turned([0, 1, 2].map((k) => scene.low[k] + (steps[3 * i + k] / STEPS) * scene.size[k])), 3 * i);
    inks[i] = 0xff000000 | (rgb[3 * i + 2] << 16) | (rgb[3 * i + 1] << 8) | rgb[3 * i];
  }
  const frames = scene.frames.map((f) => ({ ...f, centre: turned(f.centre), corners: f.corners.map(turned), ahead: turned(f.ahead) }));
  const sides = [0, 1, 2].map((k) => {
    const along = Float32Array.from({ length: count }, (_, i) => place[3 * i + k]), own = frames.map((f) => f.centre[k]);
    return [Math.min(quantile(along, 0.05), ...own), Math.max(quantile(along, 0.95), ...own)];
  });
  const radius = Math.max(1e-9, Math.hypot(...sides.map(([a, b]) => b - a)) / 2);
  return { count, place, inks, frames, middle: sides.map(([a, b]) => (a + b) / 2), radius, about: scene.about, focal: scene.focal };
}

/**
 * Wires a canvas and its controls, once. `load` gives it a scene, `lookFrom` looks from a camera, `again` draws anew.
 * told: the element that says what is seen; share, size: ranges; reset, cameras, previous, next: buttons. looked: called
 * with the number of the camera that is looked from, -1 for none.
 */
export function turnable({ canvas, told, share, size, reset, cameras, previous, next }, looked = () => {}) {
  const pen = canvas.getContext("2d");
  let world, view, shown = true, camera = -1; // view: around `target`, `yaw` clockwise from ahead, `pitch` down
  let image, ink, deep, asked = false;

  const angles = (f) => ({ yaw: Math.atan2(f[0], f[1]), pitch: Math.asin(Math.max(-1, Math.min(1, -f[2] / Math.hypot(...f)))) });

  function say(number, text) {
    camera = number;
    told.textContent = text;
    looked(number);
  }

  function home() {
    view = { target: world.middle.slice(), dist: 2 * world.radius, yaw: angles(world.frames[0].ahead).yaw, pitch: 0.45, focal: 1.2 };
    say(-1, world.about);
  }

  function lookFrom(i) {
    const many = world.frames.length, at = (i + many) % many, f = world.frames[at], dist = world.radius / 2, n = Math.hypot(...f.ahead);
    view = { target: f.centre.map((c, k) => c + (f.ahead[k] / n) * dist), dist, ...angles(f.ahead), focal: world.focal };
    say(at, `from camera ${at + 1} of ${many}: ${f.label}`);
  }

  function axes() {
    const [sa, ca, sb, cb] = [Math.sin(view.yaw), Math.cos(view.yaw), Math.sin(view.pitch), Math.cos(view.pitch)];
    const f = [sa * cb, ca * cb, -sb], r = [ca, -sa, 0], u = [sa * sb, ca * sb, cb];
    return { f, r, u, eye: view.target.map((t, k) => t - view.dist * f[k]) };
  }

  function turn(dx, dy) {
    view.yaw += dx;
    view.pitch = Math.max(-1.55, Math.min(1.55, view.pitch + dy));
  }

  function move(dx, dy) {
    const { r, u } = axes();
    view.target = view.target.map((t, k) => t - ((r[k] * dx - u[k] * dy) * view.dist) / view.focal);
  }

  function zoom(by) { view.dist = Math.max(world.radius * 1e-3, Math.min(world.radius * 100, view.dist * by)); }

  // ---- drawing: each point a square in front of what is farther, then the cameras' lines

  function fit() {
    const box = canvas.getBoundingClientRect();
    let fine = Math.min(2, window.devicePixelRatio || 1);
    fine = Math.min(fine, Math.sqrt(MOST_PIXELS / Math.max(1, box.width * box.height)));
    const w = Math.max(1, Math.round(box.width * fine)), h = Math.max(1, Math.round(box.height * fine));
    if (canvas.width !== w || canvas.height !== h || !image) {
      canvas.width = w; canvas.height = h;
      image = pen.createImageData(w, h);
      ink = new Uint32Array(image.data.buffer);
      deep = new Float32Array(w * h);
    }
  }

  function paper() {
    const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number);
    return (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;
  }

  function draw() {
    fit();
    const { count, place, inks, radius } = world, w = canvas.width, h = canvas.height, { f, r, u, eye } = axes();
    const focal = view.focal * Math.min(w, h), near = radius * 1e-3, dot = (Number(size.value) * radius) / 700;
    const drawn = Math.max(1, Math.round((count * Number(share.value)) / 100));
    ink.fill(paper());
    deep.fill(Infinity);
    for (let i = 0; i < drawn; i++) {
      const x = place[3 * i] - eye[0], y = place[3 * i + 1] - eye[1], z = place[3 * i + 2] - eye[2];
      const d = x * f[0] + y * f[1] + z * f[2];
      if (d < near) continue;
      const s = Math.max(1, Math.min(9, Math.round((dot * focal) / d)));
      const left = Math.floor(w / 2 + (focal * (x * r[0] + y * r[1] + z * r[2])) / d - s / 2);
      const top = Math.floor(h / 2 - (focal * (x * u[0] + y * u[1] + z * u[2])) / d - s / 2);
      if (left + s <= 0 || top + s <= 0 || left >= w || top >= h) continue;
      const right = Math.min(w, left + s), bottom = Math.min(h, top + s);
      for (let row = Math.max(0, top); row < bottom; row++)
        for (let at = row * w + Math.max(0, left), end = row * w + right; at < end; at++)
          if (d < deep[at]) { deep[at] = d; ink[at] = inks[i]; }
    }
    pen.putImageData(image, 0, 0);
    if (shown) lines(w, h, focal, near, { f, r, u, eye });
  }

  function lines(w, h, focal, near, { f, r, u, eye }) {
    const seen = (p) => { const q = p.map((v, k) => v - eye[k]); return [r, u, f].map((a) => a[0] * q[0] + a[1] * q[1] + a[2] * q[2]); };
    const line = (a, b) => {
      let p = seen(a), q = seen(b);
      if (p[2] < near && q[2] < near) return;
      if (p[2] < near) [p, q] = [q, p];
      if (q[2] < near) { const t = (p[2] - near) / (p[2] - q[2]); q = p.map((v, k) => v + t * (q[k] - v)); }
      pen.moveTo(w / 2 + (focal * p[0]) / p[2], h / 2 - (focal * p[1]) / p[2]);
      pen.lineTo(w / 2 + (focal * q[0]) / q[2], h / 2 - (focal * q[1]) / q[2]);
    };
    const halo = getComputedStyle(document.body).color.replace("rgb(", "rgba(").replace(")", ", 0.45)");
    world.frames.forEach((one, i) => {
      if (i === camera) return; // its lines would stand before the eye
      pen.beginPath();
      one.corners.forEach((corner, k) => { line(one.centre, corner); line(corner, one.corners[(k + 1) % 4]); });
      if (i) line(world.frames[i - 1].centre, one.centre);
      const thick = Math.max(1, w / 900) * (i ? 1.3 : 3);
      for (const [colour, more] of [[halo, 2], [one.colour, 0]]) { // seen on any ground
        pen.strokeStyle = colour;
        pen.lineWidth = thick + more;
        pen.stroke();
      }
    });
  }

  function again() {
    if (asked || !world) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  }

  // ---- hands

  const fingers = new Map();
  canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, e); });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => fingers.delete(e.pointerId));
  canvas.addEventListener("pointermove", (e) => {
    const before = fingers.get(e.pointerId);
    if (!before || !world) return;
    const side = Math.min(canvas.clientWidth, canvas.clientHeight), dx = (e.clientX - before.clientX) / side, dy = (e.clientY - before.clientY) / side;
    const other = [...fingers.values()].find((one) => one.pointerId !== e.pointerId);
    if (other) {
      const apart = (one) => Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
      zoom(apart(before) / apart(e));
      move(dx / 2, dy / 2);
    } else if (e.shiftKey || e.buttons & 2) move(dx, dy);
    else turn(-2.5 * dx, 2.5 * dy);
    fingers.set(e.pointerId, e);
    again();
  });
  canvas.addEventListener("contextmenu", (e) => e.preventDefault());
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    if (world) zoom(Math.exp(Math.sign(e.deltaY) * Math.min(0.3, Math.abs(e.deltaY) / 500)));
    again();
  }, { passive: false });
  const toggle = () => { shown = !shown; cameras.setAttribute("aria-pressed", String(shown)); };
  const [nearer, farther, onward, back] = [() => zoom(0.85), () => zoom(1 / 0.85), () => lookFrom(camera + 1), () => lookFrom(camera < 0 ? -1 : camera - 1)];
  const keys = { "+": nearer, "=": nearer, "-": farther, 0: home, c: toggle, n: onward, p: back };
  canvas.addEventListener("keydown", (e) => {
    if (!world || e.ctrlKey || e.metaKey || e.altKey) return;
    const arrow = ARROWS[e.key], key = keys[e.key.toLowerCase()];
    if (arrow) (e.shiftKey ? move(-0.05 * arrow[0], -0.05 * arrow[1]) : turn(0.08 * arrow[0], 0.08 * arrow[1]));
    else if (key) key();
    else return;
    e.preventDefault();
    again();
  });
  const act = (work) => () => { if (world) work(); again(); };
  canvas.addEventListener("dblclick", act(home));
  for (const [button, work] of [[reset, home], [cameras, toggle], [previous, back], [next, onward]]) button.addEventListener("click", act(work));
  for (const range of [share, size]) range.addEventListener("input", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  new ResizeObserver(again).observe(canvas);

  return {
    again,
    load(scene, steps, rgb) { world = worldOf(scene, steps, rgb); home(); draw(); },
    lookFrom(i) { lookFrom(i); again(); },
  };
}
