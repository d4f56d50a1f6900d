// The view of one job: progress, curves, why it is in its state, parameters, events and the end of its log.

import { Problem, get } from "./api.js";
import { jobButton, say } from "./actions.js";
import { Chart } from "./chart.js";
import { Table, element, setText } from "./dom.js";
import { duration, plain, seconds, time } from "./format.js";
import { progressColumn } from "./progress.js";

const REFRESH_MS = 2000;
const LINES = 500;
const LONGEST_LINE = 2000;
const FIRST = ["loss", "l0", "fvu", "dead"];
const MOST_CHARTS = 16;
const ENDED = ["succeeded", "failed", "cancelled"];

function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function pairs(caption) {
  return new Table(caption, [
    { name: "Name", text: ([name]) => name },
    { name: "Value", text: ([, value]) => text(value) ?? "–" },
  ], ([name]) => name);
}

export class JobView {
  constructor(id) {
    this.id = id;
    this.title = id;
    this.path = `/jobs/${encodeURIComponent(id)}`;
    this.button = jobButton();
    this.buttonNode = this.button.make();
    this.buttonNode.hidden = true;
    this.progress = progressColumn.make();
    this.progress.hidden = true;
    this.heading = element("h1", {}, id);
    this.summary = element("p");
    this.causes = element("ul");
    this.charts = new Map();
    this.chartsNode = element("div", { class: "charts" });
    this.noCharts = element("p", { class: "dim" });
    this.params = pairs("Parameters");
    this.facts = pairs("Record");
    this.events = new Table("Events", [
      { name: "Time", text: (event) => time(event.at) },
      { name: "State", text: (event) => event.state },
      { name: "Attempt", number: true, text: (event) => plain(event.attempt) },
      { name: "Worker", text: (event) => plain(event.worker) },
      { name: "Reason", text: (event) => event.reason ?? "" },
    ], (event) => event.key);
    this.log = element("pre", { tabindex: 0, role: "region", "aria-label": "End of the log" });
    this.follow = element("input", { type: "checkbox", checked: true });
    this.logNote = element("p", { class: "dim" });
    this.lines = [];
    this.after = 0;
    this.node = element("div", {}, this.heading, this.summary, element("p", {}, this.progress, " ", this.buttonNode), this.causes,
      element("h2", {}, "Metrics"), this.noCharts, this.chartsNode, this.params.node, this.events.node,
      element("h2", {}, "Log"), element("p", {}, element("label", {}, this.follow, " Follow")), this.log, this.logNote, this.facts.node);
    this.isClosed = false;
    this.refresh();
  }

  // One round after another for as long as the view is open; of an ended job less often.
  async refresh() {
    while (!this.isClosed) {
      const failed = await this.load();
      if (failed?.status === 404) {
        setText(this.summary, failed.message);
        return;
      }
      if (failed) say(failed.message);
      else if (this.hasFailed) say("");
      this.hasFailed = failed !== null;
      await new Promise((done) => { this.timer = setTimeout(done, ENDED.includes(this.job?.state) ? 3 * REFRESH_MS : REFRESH_MS); });
    }
  }

  async load() {
    try {
      const [job, metrics, explained] = await Promise.all([get(this.path), get(`${this.path}/metrics`), get(`${this.path}/explain`)]);
      this.paint(job, explained.causes);
      this.paintCharts(metrics.series);
      await this.readLog();
    } catch (problem) {
      return problem instanceof Problem ? problem : new Problem(0, String(problem));
    }
    return null;
  }

  paint(job, causes) {
    this.job = job;
    this.title = job.name;
    setText(this.heading, job.name || job.id);
    this.paintProgress(job);
    this.button.update(this.buttonNode, job);
    this.causes.replaceChildren(...causes.map((cause) => element("li", {}, cause.sentence, ...(cause.command ? [" ", element("code", {}, cause.command)] : []))));
    this.params.show(Object.entries(job.params ?? {}), "No parameters.");
    this.events.show(job.events.map((event, index) => ({ ...event, key: `${index} ${event.at}` })), "No event.");
    const facts = ["id", "kind", "queue", "priority", "attempt", "max_attempts", "tags", "parents", "retry_of", "gpu", "worker", "device",
      "created_at", "started_at", "finished_at", "artifact", "path", "reason", "error", "result", "owner"];
    this.facts.show(facts.filter((name) => job[name] !== null && job[name] !== "").map((name) => [name, job[name]]), "");
  }

  paintProgress(job) {
    const parts = [job.kind, job.state, `queue ${job.queue}`, `attempt ${job.attempt}`];
    if (job.started_at) parts.push(`running time ${duration(seconds(job.started_at, job.finished_at))}`);
    if (job.state === "running") parts.push(`ETA ${duration(job.eta_s)}`);
    if (job.cancel_requested && !ENDED.includes(job.state)) parts.push("cancellation requested");
    setText(this.summary, parts.join(" · "));
    this.progress.hidden = !job.progress || job.state === "succeeded";
    progressColumn.update(this.progress, job);
  }

  paintCharts(series) {
    const names = Object.keys(series ?? {}).filter((name) => name !== "at");
    const rank = (name) => (FIRST.indexOf(name) + FIRST.length + 1) % (FIRST.length + 1);
    names.sort((one, other) => rank(one) - rank(other));
    setText(this.noCharts, names.length ? "" : "No metrics recorded.");
    for (const name of names.slice(0, MOST_CHARTS)) {
      if (!this.charts.has(name)) {
        this.charts.set(name, new Chart(name));
        this.chartsNode.append(this.charts.get(name).node);
      }
      this.charts.get(name).show(series.at, series[name]);
    }
    if (names.length > MOST_CHARTS) setText(this.noCharts, `${names.length - MOST_CHARTS} more metrics: mistudio jobs show ${this.id}`);
  }

  async readLog() {
    for (;;) {
      const found = await get(`${this.path}/logs?after=${this.after}&limit=1000`);
      if (this.isClosed) return;
      setText(this.logNote, found.missing.join(" "));
      if (!found.lines.length) return;
      this.after = found.next;
      for (const line of found.lines) this.lines.push(lineText(line));
      const left = this.lines.length - LINES;
      if (left > 0) this.lines.splice(0, left);
      this.log.textContent = this.lines.join("\n");
      if (this.follow.checked) this.log.scrollTop = this.log.scrollHeight;
    }
  }

  // The feed is fresher than the last request.
  show(state) {
    const newest = state?.jobs?.[this.id];
    if (newest && this.job) this.paintProgress({ ...this.job, ...newest });
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.timer);
  }
}

function lineText(line) {
  const message = line.message ?? "";
  const cut = message.length > LONGEST_LINE ? `${message.slice(0, LONGEST_LINE)} … ${message.length - LONGEST_LINE} more characters` : message;
  return [line.time, line.level, cut].filter(Boolean).join(" ");
}
