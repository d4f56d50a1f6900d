// One metric as lines over steps or time, drawn by uPlot: the values under the pointer or the arrow keys are text.

import { aligned, count, firstAndLast, lone, positive, smoothed } from "./chart_data.js";
import { Readout, colorOf, dashOf } from "./chart_readout.js";
import { element } from "../dom.js";
import { number } from "../format.js";
import uPlot from "../vendor/uPlot.esm.js";

const HEIGHT = 180;
const FONT = "12px system-ui, sans-serif";
const HALF_A_TIME = 40;  // pixels: the label of a time at the right edge is as wide on both sides of it
const NOWHERE = { left: -10, top: -10 };

function styled(variable) {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}

export class Chart {
  // Charts of one `group` share their cursor. `x`: "step", or "time" in seconds since the epoch.
  constructor(name, { group = null, x = "step", unit = "", log = false } = {}) {
    this.group = group;
    this.x = x;
    this.style = { log, smoothing: 0 };
    this.series = [];
    this.plot = null;
    this.width = 0;
    this.chosen = null;  // where the arrow keys have put the cursor
    this.readout = new Readout(name, unit, x);
    this.box = element("div", { class: "plot", role: "img", tabindex: 0 });
    this.node = element("figure", { "data-metric": name }, this.readout.node, this.box);
    this.box.addEventListener("pointermove", () => { this.chosen = null; });
    this.box.addEventListener("blur", () => this.choose(null));
    this.box.addEventListener("keydown", (event) => this.key(event));
    // In the next frame: a size that changes a size within one is an error.
    this.resized = new ResizeObserver(([entry]) => requestAnimationFrame(() => this.resize(Math.floor(entry.contentRect.width))));
    this.resized.observe(this.box);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.repaint = () => this.plot?.redraw(false);
    this.scheme.addEventListener("change", this.repaint);
  }

  // `series`: [{ name, at: [numbers], values: [numbers or null], place }]; `place` chooses color and dashes, by default
  // the place in the list.
  show(series) {
    this.series = series.map((line, place) => ({ place, ...line }));
    this.refresh();
  }

  // `log`: whether the scale is logarithmic; `smoothing`: weight of the moving average, 0 to 0.99.
  setStyle(style) {
    this.style = { ...this.style, ...style };
    this.refresh();
  }

  refresh() {
    this.compute();
    this.draw();
    this.read();
    this.box.setAttribute("aria-label", this.readout.summary(this.series.map(({ name }, index) => this.ends(name, index))));
  }

  compute() {
    const { positions, columns } = aligned(this.series);
    const { log, smoothing } = this.style;
    const means = smoothing > 0 ? columns.map((column) => smoothed(column, smoothing)) : [];
    const shown = (all) => log ? all.map(positive) : all;
    this.positions = positions;
    this.raw = shown(columns);
    this.means = shown(means);
    const missing = count(columns, (value) => value === null);
    const leftOut = log ? count(columns, (value) => value <= 0 && value !== null) : 0;
    this.notes = [missing && `${missing} not finite or missing`, leftOut && `${leftOut} not above 0, left out on a log scale`].filter(Boolean);
  }

  // The lines by which a value is meant: the smoothed ones where there are any.
  get lines() {
    return this.means.length ? this.means : this.raw;
  }

  draw() {
    if (!this.width || this.isClosed) return;
    const shape = JSON.stringify([this.style.log, this.means.length, this.series.map(({ place }) => place)]);
    const data = [this.positions, ...this.raw, ...this.means];
    if (this.plot && shape === this.shape) this.plot.setData(data);
    else {
      this.plot?.destroy();
      this.plot = new uPlot(this.options(), data, this.box);
      this.shape = shape;
    }
    if (this.chosen !== null) queueMicrotask(() => this.choose(this.chosen));  // uPlot draws in a microtask, too
  }

  options() {
    const axis = { stroke: () => styled("--dim"), font: FONT, grid: { stroke: () => styled("--line"), width: 1 }, ticks: { show: false } };
    const labels = (plot, splits) => splits.map((value) => value === null ? "" : number(value));
    const isTime = this.x === "time";
    const times = (plot, splits) => splits.map((value) => timeLabel(value, splits));
    return {
      width: this.width,
      height: HEIGHT,
      legend: { show: false },
      scales: { x: { time: isTime }, y: { distr: this.style.log ? 3 : 1 } },
      padding: [null, isTime ? HALF_A_TIME : null, null, null],
      axes: [{ ...axis, size: 30, space: isTime ? 100 : 70, values: isTime ? times : labels }, { ...axis, size: 62, values: labels }],
      series: [{}, ...this.raw.map((column, index) => this.line(index, this.means.length > 0)), ...this.means.map((column, index) => this.line(index, false))],
      cursor: { y: false, drag: { x: false, y: false, setScale: false }, sync: this.group === null ? undefined : { key: this.group, scales: ["x", null] } },
      hooks: { setCursor: [() => this.read()] },
    };
  }

  line(index, isBehind) {
    const { place } = this.series[index];
    return {
      stroke: () => styled(colorOf(place)),
      dash: dashOf(place),
      width: isBehind ? 1 : 2,
      alpha: isBehind ? 0.35 : 1,
      points: { show: false, fill: () => styled(colorOf(place)), filter: (plot, shown) => lone(plot.data[shown]) },
    };
  }

  resize(width) {
    if (this.isClosed || !width || width === this.width) return;
    this.width = width;
    if (this.plot) this.plot.setSize({ width, height: HEIGHT });
    else this.draw();
    this.read();
  }

  // Under the cursor, else at the end.
  read() {
    if (!this.positions) return;
    const pointed = this.plot?.cursor.idx ?? null;
    const places = this.lines.map((column, index) => pointed === null ? firstAndLast(column)?.[1] : this.plot.cursor.idxs[index + 1]);
    const entries = this.series.map(({ name, place }, index) => ({
      name, place, value: this.lines[index][places[index]],
      ...(this.means.length ? { raw: this.raw[index][places[index]] } : {}),
    }));
    const at = pointed ?? Math.max(-1, ...places.filter((place) => place !== undefined));
    this.readout.show(entries, this.positions[at] ?? null, this.notes);
  }

  ends(name, index) {
    const [from, to] = (firstAndLast(this.lines[index]) ?? []).map((place) => [this.positions[place], this.lines[index][place]]);
    return { name, from, to };
  }

  key(event) {
    const last = (this.positions?.length ?? 0) - 1;
    const now = this.plot?.cursor.idx ?? last;
    const to = { ArrowLeft: Math.max(0, now - 1), ArrowRight: Math.min(last, now + 1), Home: 0, End: last }[event.key];
    if (to === undefined || last < 0 || !this.plot) return;
    event.preventDefault();
    this.choose(this.positions[to]);
  }

  // Puts the cursor at a position, and those of the same group with it; null takes it away.
  choose(at) {
    this.chosen = at;
    if (!this.plot) return;
    this.plot.setCursor(at === null ? NOWHERE : { left: this.plot.valToPos(at, "x"), top: 0 }, true, true);
  }

  close() {
    this.isClosed = true;
    this.resized.disconnect();
    this.scheme.removeEventListener("change", this.repaint);
    this.plot?.destroy();
    this.plot = null;
  }
}

function timeLabel(at, splits) {
  const between = splits[1] - splits[0];
  const shown = between < 60 ? { hour: "2-digit", minute: "2-digit", second: "2-digit" }
    : between < 86400 ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "numeric" };
  return new Date(at * 1000).toLocaleString([], shown);
}
