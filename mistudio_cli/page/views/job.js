// The view of one job: progress, curves, why it is in its state, parameters, events and the end of its log.

import { Problem, get } from "../api.js";
import { ENDED, jobButton, say } from "../parts/actions.js";
import { DeviceUse } from "../charts/device_use.js";
import { Table, element, setText } from "../dom.js";
import { duration, eventReason, plain, seconds, time } from "../format.js";
import { pairsTable } from "../parts/columns.js";
import { LINES, LogTail } from "../parts/job_log.js";
import { lineageTable, relativesOf } from "../parts/lineage.js";
import { MetricCharts } from "../charts/metric_charts.js";
import { progressColumn } from "../parts/progress.js";

const REFRESH_MS = 2000;

function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value) ?? "–";
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
    this.again = element("a", { href: `#/submit/${encodeURIComponent(id)}`, class: "changes", hidden: true }, "Submit again with changes");
    this.causes = element("ul");
    this.charts = new MetricCharts(`job ${id}`);
    this.deviceUse = new DeviceUse();
    this.params = pairsTable("Parameters", text);
    this.facts = pairsTable("Record", text);
    this.events = new Table("Events", [
      { name: "Time", text: (event) => time(event.at) },
      { name: "State", text: (event) => event.state },
      { name: "Attempt", number: true, text: (event) => plain(event.attempt) },
      { name: "Worker", text: (event) => plain(event.worker) },
      { name: "Reason", text: (event) => eventReason(event.reason) },
    ], (event) => event.key);
    this.log = new LogTail();
    this.relatives = lineageTable();
    this.after = null;
    this.metrics = element("section", { hidden: true }, element("h2", {}, "Metrics"), this.charts.node);
    this.logSection = element("section", {}, element("h2", {}, "Log"), this.log.node);
    this.node = element("div", {}, this.heading, this.summary, element("p", {}, this.progress, " ", this.buttonNode, " ", this.again), this.causes,
      this.metrics, this.deviceUse.node, this.params.node, this.relatives.node, this.events.node, this.logSection, this.facts.node);
    this.isClosed = false;
    this.refresh();
  }

  // One round after another for as long as the view is open; of an ended job less often.
  async refresh() {
    while (!this.isClosed) {
      const failed = await this.load();
      if (failed?.status === 404) {
        this.showGone(failed.message);
        return;
      }
      if (failed) say(failed.message);
      else if (this.hasFailed) say("");
      this.hasFailed = failed !== null;
      await new Promise((done) => { this.timer = setTimeout(done, ENDED.includes(this.job?.state) ? 3 * REFRESH_MS : REFRESH_MS); });
    }
  }

  // A link to a job that was removed, or mistyped: there is nothing else to show.
  showGone(sentence) {
    setText(this.summary, `${sentence} Its record may have been removed. `);
    this.summary.append(element("a", { href: "#/jobs" }, "All jobs"));
    this.node.replaceChildren(this.heading, this.summary);
  }

  async load() {
    try {
      const [job, metrics, explained] = await Promise.all([get(this.path), get(`${this.path}/metrics`), get(`${this.path}/explain`)]);
      if (this.isClosed) return null;
      this.paint(job, explained.causes);
      this.deviceUse.show(job);
      this.metrics.hidden = metrics.series === null;
      this.charts.show([{ name: job.name || job.id, series: metrics.series }], `mistudio jobs show ${this.id}`);
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
    this.placeLog(job);
    this.button.update(this.buttonNode, job);
    this.again.hidden = false;
    this.causes.replaceChildren(...causes.map((cause) => element("li", {}, cause.sentence, ...(cause.command ? [" ", element("code", {}, cause.command)] : []))));
    this.params.show(Object.entries(job.params ?? {}), "No parameters.");
    this.relatives.show(relativesOf(job), "No parent, child or earlier try.");
    this.events.show(job.events.map((event, index) => ({ ...event, key: `${index} ${event.at}` })), "No event.");
    const facts = ["id", "kind", "queue", "priority", "attempt", "max_attempts", "tags", "gpu", "worker", "device",
      "created_at", "started_at", "finished_at", "artifact", "path", "reason", "error", "result", "owner"];
    const isNews = (name) => name !== "reason" || job.state !== "running";
    this.facts.show(facts.filter((name) => isNews(name) && job[name] !== null && job[name] !== "").map((name) => [name, job[name]]), "");
  }

  // Of a job that failed the last lines say most: they follow the reason.
  placeLog(job) {
    const before = job.state === "failed" ? this.causes : this.events.node;
    if (before.nextSibling === this.logSection) return;
    before.after(this.logSection);
    this.log.scrollToEnd();
  }

  paintProgress(job) {
    const parts = [job.kind, job.state, `queue ${job.queue}`, `attempt ${job.attempt}`];
    if (job.started_at) parts.push(`running time ${duration(seconds(job.started_at, job.finished_at))}`);
    if (job.state === "running") parts.push(`ETA ${duration(job.eta_s)}`);
    if (job.cancel_requested && !ENDED.includes(job.state)) parts.push("cancellation requested");
    setText(this.summary, parts.join(" · "));
    this.progress.hidden = !job.progress || job.state !== "running";
    progressColumn.update(this.progress, job);
  }

  async readLog() {
    for (;;) {
      const from = this.after === null ? `last=${LINES}` : `after=${this.after}&limit=1000`;
      const found = await get(`${this.path}/logs?${from}`);
      if (this.isClosed) return;
      this.log.add(found.lines, found.missing);
      this.after = found.next;
      if (!found.lines.length) return;
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
    this.charts.close();
    this.deviceUse.close();
  }
}
