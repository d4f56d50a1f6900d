// Charts of metrics, a line for each job: their cursors, scale and smoothing are one.

import { Chart } from "./chart.js";
import { ChartControls } from "./chart_controls.js";
import { element, setText } from "../dom.js";

const FIRST = ["loss", "l0", "fvu", "dead_features"];
const MOST_CHARTS = 16;

// The metrics of some series, the most important first.
export function metricNames(allSeries) {
  const names = [...new Set(allSeries.flatMap((series) => Object.keys(series ?? {})))].filter((name) => name !== "at");
  const rank = (name) => (FIRST.indexOf(name) + FIRST.length + 1) % (FIRST.length + 1);
  return names.sort((one, other) => rank(one) - rank(other));
}

export class MetricCharts {
  constructor(group) {
    this.group = group;
    this.charts = new Map();
    this.controls = new ChartControls((style) => this.charts.forEach((chart) => chart.setStyle(style)));
    this.grid = element("div", { class: "charts" });
    this.note = element("p", { class: "dim" });
    this.node = element("div", {}, this.controls.node, this.note, this.grid);
    this.controls.node.hidden = true;
  }

  // `jobs`: [{ name, series }] as the REST interface has series: a list for each metric, and `at`.
  show(jobs, whenMore) {
    const names = metricNames(jobs.map(({ series }) => series));
    this.controls.node.hidden = !names.length;
    const more = names.length - MOST_CHARTS;
    setText(this.note, !names.length ? "No metrics recorded." : more > 0 ? `${more} more metrics: ${whenMore}` : "");
    for (const metric of names.slice(0, MOST_CHARTS)) {
      // A job without this metric keeps its place and its name: its value is unknown.
      this.chart(metric).show(jobs.map(({ name, series }) => ({ name, at: series?.[metric] ? series.at : [], values: series?.[metric] ?? [] })));
    }
  }

  chart(metric) {
    if (!this.charts.has(metric)) {
      const made = new Chart(metric, { group: this.group });
      made.setStyle(this.controls.style);
      this.charts.set(metric, made);
      this.grid.append(made.node);
    }
    return this.charts.get(metric);
  }

  close() {
    this.charts.forEach((chart) => chart.close());
  }
}
