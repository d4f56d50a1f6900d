// L0 against FVU of several SAEs as SVG: a mark and a name for each job, and the same as a table.

import { range, ticks } from "./axis_ticks.js";
import { Table, element, setText, svg } from "../dom.js";
import { number } from "../format.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [480, 290, 64, 16, 26, 40];
const LINE_PX = 14;
const LONGEST_NAME = 28;
// A form for each place, so that color is not all that differs: around 0, 0.
const FORMS = ["M-5-5H5V5H-5Z", "M0-6L6 5H-6Z", "M0-7L7 0 0 7-7 0Z", "M-5-5L5 5M5-5L-5 5", "M0-6V6M-6 0H6", "M0 6L6-5H-6Z",
  "M-5-5H5V5H-5ZM-5-5L5 5", "M0-7L7 0 0 7-7 0ZM-7 0H7"];

// Held-out values of the result where it has both; else those of the newest training batch.
function pointOf({ job, label, place }) {
  const held = job.result ?? {};
  const from = Number.isFinite(held.l0) && Number.isFinite(held.fvu) ? held : job.metrics ?? {};
  if (!Number.isFinite(from.l0) || !Number.isFinite(from.fvu)) return null;
  return { id: job.id, label, place, l0: from.l0, fvu: from.fvu, source: from === held ? "held-out tokens" : "training batch" };
}

export class ScatterPlot {
  constructor() {
    this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "scatter" });
    this.caption = element("figcaption");
    this.table = new Table("L0 and FVU", [
      { name: "Job", text: ({ label }) => label },
      { name: "L0", number: true, text: ({ l0 }) => number(l0) },
      { name: "FVU", number: true, text: ({ fvu }) => number(fvu) },
      { name: "Measured on", text: ({ source }) => source },
    ], ({ id }) => id);
    this.node = element("div", {}, element("h2", {}, "L0 and FVU"), element("figure", {}, this.caption, this.svg),
      element("details", {}, element("summary", {}, "As a table"), this.table.node));
    this.node.hidden = true;
  }

  // `jobs`: [{ job, label, place }]
  show(jobs) {
    const points = jobs.map(pointOf).filter(Boolean);
    this.node.hidden = !points.length;
    if (!points.length) return;
    this.table.show(points, "");
    const missing = jobs.length - points.length;
    setText(this.caption, `FVU by L0; lower left is better.${missing ? ` Without both: ${missing} of ${jobs.length} jobs.` : ""}`);
    this.svg.setAttribute("aria-label", points.map(({ label, l0, fvu }) => `${label}: L0 ${number(l0)}, FVU ${number(fvu)}`).join("; "));
    this.svg.replaceChildren(...this.drawn(points));
  }

  drawn(points) {
    const [left, right] = range(points.map(({ l0 }) => l0));
    const [low, high] = range(points.map(({ fvu }) => fvu));
    const x = (value) => LEFT + ((value - left) / (right - left)) * (WIDTH - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const marks = points.map((point) => svg("path", { class: `mark line-${point.place + 1}`, d: FORMS[point.place], transform: `translate(${x(point.l0)} ${y(point.fvu)})` }));
    return [...axes(x, y, ticks(left, right, 5), ticks(low, high, 5)), ...marks, ...names(points.map((point) => ({ ...point, x: x(point.l0), y: y(point.fvu) })))];
  }
}

function axes(x, y, across, up) {
  const [bottom, end] = [HEIGHT - BOTTOM, WIDTH - RIGHT];
  return [
    ...up.map((value) => svg("line", { class: "grid", x1: LEFT, x2: end, y1: y(value), y2: y(value) })),
    ...up.map((value) => svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, number(value))),
    ...across.map((value) => svg("text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, number(value))),
    svg("path", { class: "axis", d: `M${LEFT} ${TOP}V${bottom}H${end}` }),
    svg("text", { x: end, y: HEIGHT - 6, "text-anchor": "end" }, "L0 (features per token)"),
    svg("text", { x: LEFT, y: TOP - 10 }, "FVU"),
  ];
}

// Names beside their marks, on the side with room, each below the one above it.
function names(points) {
  let before = -Infinity;
  return [...points].sort((one, other) => one.y - other.y).map(({ label, x, y }) => {
    before = Math.max(y + 4, before + LINE_PX);
    const isRight = x < WIDTH / 2;
    const text = label.length > LONGEST_NAME ? `${label.slice(0, LONGEST_NAME - 1)}…` : label;
    return svg("text", { class: "name", x: x + (isRight ? 10 : -10), y: before, "text-anchor": isRight ? "start" : "end" }, text);
  });
}
