// Charts of what queues and GPUs were like: read once, then only the newest entries every few seconds.

import { get } from "../api.js";
import { Chart } from "./chart.js";
import { element, setText } from "../dom.js";

const NEWEST = 12;
const UNKNOWN = null;

// One part of the history over one span, kept up to date: `at` are times, `rows` have a list of values for each name.
export class History {
  constructor(part, span) {
    this.part = part;
    this.path = `/history?part=${part}&span=${span}`;
    this.at = [];
    this.rows = [];
    this.leftOut = 0;
  }

  async refresh() {
    const found = await get(this.at.length ? `${this.path}&newest=${NEWEST}` : this.path);
    const start = Date.parse(found.start) / 1000;
    const isGap = this.at.length && start > this.at.at(-1) + found.step_s;  // the page was hidden for a while
    this.take(isGap ? await get(this.path) : found);
  }

  take(found) {
    const start = Date.parse(found.start) / 1000;
    const times = Array.from({ length: found.count }, (_, step) => start + step * found.step_s);
    this.size = Math.max(this.size ?? 0, found.count);
    const kept = this.at.filter((time) => time < start).length;
    const excess = Math.max(0, kept + times.length - this.size);
    const before = new Map(this.rows.map((row) => [keyOf(row), row]));
    const now = new Map(found[this.part].map((row) => [keyOf(row), row]));
    this.at = [...this.at.slice(0, kept), ...times].slice(excess);
    this.rows = [...new Set([...before.keys(), ...now.keys()])]
      .map((key) => joined(before.get(key), now.get(key), kept, times.length, excess))
      .filter(hasValue);
    this.leftOut = found.left_out;
  }
}

export function hasValue(row) {
  return Object.values(row).some((values) => Array.isArray(values) && values.some((value) => value !== UNKNOWN));
}

function keyOf(row) {
  return row.uuid ?? `${row.host} ${row.index} ${row.instance} ${row.name}`;
}

function joined(before, now, kept, added, excess) {
  const row = { ...before, ...now };
  for (const [name, values] of Object.entries(row)) {
    if (!Array.isArray(values)) continue;
    const old = before ? before[name].slice(0, kept) : Array(kept).fill(UNKNOWN);
    row[name] = [...old, ...(now ? now[name] : Array(added).fill(UNKNOWN))].slice(excess);
  }
  return row;
}

// "0", of a MIG instance "0:1", with the host where there are several.
export function deviceName(row, rows) {
  const place = row.instance === null || row.instance === undefined ? `${row.index ?? "?"}` : `${row.index}:${row.instance}`;
  return new Set(rows.map(({ host }) => host)).size > 1 ? `${row.host ?? "?"} GPU ${place}` : `GPU ${place}`;
}

// A chart for each of `what`: { title, unit, field, scale }, of the rows that `isWanted` chooses; they share their cursor.
export class HistoryCharts {
  constructor(what, group, isWanted = () => true) {
    this.isWanted = isWanted;
    this.charts = what.map((each) => ({ ...each, chart: new Chart(each.title, { group, x: "time", unit: each.unit }) }));
    this.node = element("div", { class: "charts", hidden: true }, ...this.charts.map(({ chart }) => chart.node));
  }

  show(history) {
    const rows = history.rows.filter(this.isWanted);
    this.node.hidden = !rows.length;
    for (const { chart, field, scale = 1 } of this.charts) {
      const began = Math.max(0, history.at.findIndex((time, step) => rows.some((row) => row[field][step] !== UNKNOWN)));
      chart.show(rows.map((row) => ({
        name: history.part === "queues" ? row.name : deviceName(row, rows),
        at: history.at.slice(began),
        values: row[field].slice(began).map((value) => value === UNKNOWN ? UNKNOWN : value * scale),
      })));
    }
  }

  close() {
    for (const { chart } of this.charts) chart.close();
  }
}

// Keeps a history up to date until it is closed; `paint` shows it. `node` says what is wrong with it.
export class LiveHistory {
  constructor(history, refreshMs, paint) {
    this.history = history;
    this.paint = paint;
    this.node = element("p", { class: "dim" });
    this.isClosed = false;
    this.refresh();
    this.timer = setInterval(() => this.refresh(), refreshMs);
  }

  async refresh() {
    if (document.hidden && this.history.at.length) return;
    let words = "";
    try {
      await this.history.refresh();
      if (this.history.leftOut) words = `${this.history.leftOut} more GPUs of the fleet have no history.`;
    } catch (problem) {
      words = `The history could not be read: ${problem.message}`;
    }
    if (this.isClosed) return;
    setText(this.node, words);
    this.paint(this.history);
  }

  close() {
    this.isClosed = true;
    clearInterval(this.timer);
  }
}

// One chart of the last 15 minutes, by itself.
export class RecentChart {
  constructor(part, refreshMs, what) {
    this.charts = new HistoryCharts([what], null);
    this.live = new LiveHistory(new History(part, "15m"), refreshMs, (history) => this.charts.show(history));
    this.node = element("div", { class: "recent" }, this.charts.node, this.live.node);
  }

  close() {
    this.live.close();
    this.charts.close();
  }
}
