// One metric over time as SVG: axes with values, and the value under the pointer or the arrow keys.

import { element, setText } from "./dom.js";
import { number } from "./format.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [400, 180, 56, 10, 8, 24];

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Round values within a range: 1, 2 or 5 times a power of ten apart.
export function ticks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at += 1) found.push(Number((at * step).toPrecision(12)));
  return found;
}

function range(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  const room = high === low ? Math.abs(high) * 0.1 || 1 : 0;
  return [low - room, high + room];
}

export class Chart {
  constructor(name) {
    this.name = name;
    this.points = [];
    this.chosen = null;
    this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: "0" });
    this.readout = element("figcaption", { "aria-live": "off" });
    this.node = element("figure", { "data-metric": name }, this.readout, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.choose(null));
    this.svg.addEventListener("blur", () => this.choose(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  show(at, values) {
    this.points = at.map((x, index) => [x, values[index]]).filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
    if (this.chosen !== null && this.chosen >= this.points.length) this.chosen = null;
    this.paint();
  }

  paint() {
    this.svg.replaceChildren();
    if (!this.points.length) return setText(this.readout, `${this.name}: no finite value`);
    const [left, right] = range(this.points.map(([x]) => x));
    const [low, high] = range(this.points.map(([, y]) => y));
    this.x = (value) => LEFT + ((value - left) / (right - left)) * (WIDTH - LEFT - RIGHT);
    this.y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    this.axes(ticks(left, right, 4), ticks(low, high, 5));
    const line = this.points.map(([x, y]) => `${this.x(x).toFixed(1)},${this.y(y).toFixed(1)}`).join(" ");
    this.svg.append(svg("polyline", { class: "curve", points: line }));
    if (this.points.length === 1) this.dot(this.points[0]);
    const [first, last] = [this.points[0], this.points.at(-1)];
    this.svg.setAttribute("aria-label", `${this.name} from ${number(first[1])} at ${first[0]} to ${number(last[1])} at ${last[0]}`);
    this.mark();
  }

  axes(across, up) {
    const [bottom, end] = [HEIGHT - BOTTOM, WIDTH - RIGHT];
    for (const value of up) {
      const y = this.y(value);
      this.svg.append(svg("line", { class: "grid", x1: LEFT, x2: end, y1: y, y2: y }));
      this.svg.append(svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, number(value)));
    }
    for (const value of across) {
      this.svg.append(svg("text", { x: Math.min(this.x(value), end - 12), y: HEIGHT - 6, "text-anchor": "middle" }, number(value)));
    }
    this.svg.append(svg("path", { class: "axis", d: `M${LEFT} ${TOP}V${bottom}H${end}` }));
  }

  dot([x, y]) {
    this.svg.append(svg("circle", { class: "point", cx: this.x(x), cy: this.y(y), r: 4 }));
  }

  mark() {
    this.svg.querySelectorAll(".cursor, .chosen").forEach((node) => node.remove());
    const [x, y] = this.points[this.chosen ?? this.points.length - 1];
    setText(this.readout, `${this.name}: ${number(y)} at ${x}`);
    if (this.chosen === null) return;
    this.svg.append(svg("line", { class: "cursor", x1: this.x(x), x2: this.x(x), y1: TOP, y2: HEIGHT - BOTTOM }));
    this.svg.append(svg("circle", { class: "point chosen", cx: this.x(x), cy: this.y(y), r: 4 }));
  }

  choose(index) {
    this.chosen = index;
    if (this.points.length) this.mark();
  }

  point(event) {
    if (!this.points.length) return;
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    let nearest = 0;
    this.points.forEach(([at], index) => {
      if (Math.abs(this.x(at) - x) < Math.abs(this.x(this.points[nearest][0]) - x)) nearest = index;
    });
    this.choose(nearest);
  }

  key(event) {
    const last = this.points.length - 1;
    const now = this.chosen ?? last;
    const to = { ArrowLeft: Math.max(0, now - 1), ArrowRight: Math.min(last, now + 1), Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.choose(to);
  }
}
