// The view Compare: the curves of several jobs over each other, what differs in their parameters, and what came of them.

import { ENDED, say } from "../parts/actions.js";
import { get } from "../api.js";
import { differences, metricsShown, paramsTable, resultsTable } from "../parts/compare_tables.js";
import { element, setText } from "../dom.js";
import { LEAST_COMPARED, MOST_COMPARED } from "../parts/job_selection.js";
import { MetricCharts } from "../charts/metric_charts.js";
import { ScatterPlot } from "../charts/scatter.js";

const REFRESH_MS = 3000;

export class CompareView {
  title = "Compare";

  constructor(ids) {
    this.ids = [...new Set(ids.split(",").filter(Boolean))];
    this.notes = element("ul");
    this.missing = new Map();  // what the server says of each job that there is not
    this.charts = new MetricCharts("compare");
    this.scatter = new ScatterPlot();
    this.results = element("div");
    this.params = element("div");
    this.equal = element("p", { class: "dim" });
    this.content = element("div", {}, this.results, this.scatter.node, element("h2", {}, "Metrics"), this.charts.node, this.params, this.equal);
    this.content.hidden = true;
    this.node = element("div", {}, element("h1", {}, "Compare"), element("div", { role: "status" }, this.notes), this.content);
    if (this.ids.length < LEAST_COMPARED || this.ids.length > MOST_COMPARED) {
      this.note([`Compare takes ${LEAST_COMPARED} to ${MOST_COMPARED} jobs; this address has ${this.ids.length}. Select them in the view Jobs.`]);
    } else this.refresh();
  }

  async refresh() {
    while (!this.isClosed) {
      const isOver = await this.load();
      if (isOver) return;
      await new Promise((done) => { this.timer = setTimeout(done, REFRESH_MS); });
    }
  }

  // Whether nothing can change any more.
  async load() {
    const there = this.ids.filter((id) => !this.missing.has(id));
    const answers = await Promise.allSettled(there.map((id) => get(`/jobs/${encodeURIComponent(id)}`)));
    if (this.isClosed) return true;
    answers.forEach(({ reason }, index) => {
      if (reason?.status === 404) this.missing.set(there[index], reason.message);
    });
    const failed = answers.find(({ reason }) => reason && reason.status !== 404);
    if (failed) say(failed.reason.message);
    else {
      if (this.hasFailed) say("");
      this.paint(answers.map(({ value }) => value).filter(Boolean));
    }
    this.hasFailed = failed !== undefined;
    return !failed && answers.every(({ value }) => !value || ENDED.includes(value.state));
  }

  paint(found) {
    const jobs = withLabels(found);
    const silent = jobs.filter(({ job }) => !job.series)
      .map(({ job, label }) => job.metrics ? `The curves of ${label} are no longer kept.` : `${label} has no metrics.`);
    this.note([...this.missing.values(), ...silent]);
    this.content.hidden = !jobs.length;
    this.charts.show(jobs.map(({ job, label }) => ({ name: label, series: job.series })), "mistudio jobs show ID");
    this.scatter.show(jobs);
    this.paintTables(jobs);
  }

  // The columns are those of the jobs and metrics found: other ones make other tables.
  paintTables(jobs) {
    const columns = JSON.stringify([jobs.map(({ label }) => label), metricsShown(jobs)]);
    if (columns !== this.columns) {
      this.columns = columns;
      [this.resultsTable, this.paramsTable] = [resultsTable(jobs), paramsTable(jobs)];
      this.results.replaceChildren(this.resultsTable.node);
      this.params.replaceChildren(this.paramsTable.node);
    }
    this.resultsTable.show(jobs, "");
    const { different, equal } = differences(jobs.map(({ job }) => job.params ?? {}));
    this.paramsTable.show(different, "No parameter differs.");
    setText(this.equal, equal === 1 ? "1 parameter is equal." : `${equal} parameters are equal.`);
  }

  note(sentences) {
    if (this.notes.childElementCount === sentences.length && this.notes.textContent === sentences.join("")) return;
    this.notes.replaceChildren(...sentences.map((sentence) => element("li", {}, sentence)));
  }

  show() {}

  close() {
    this.isClosed = true;
    clearTimeout(this.timer);
    this.charts.close();
  }
}

// Jobs of one name are distinguished by their ids.
function withLabels(jobs) {
  const isAlone = (name) => jobs.filter((job) => job.name === name).length === 1;
  return jobs.map((job, place) => ({ job, place, label: job.name && isAlone(job.name) ? job.name : `${job.name} (${job.id})`.trim() }));
}
