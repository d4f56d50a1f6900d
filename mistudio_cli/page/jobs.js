// The view Jobs: a list by filters, sorted within the page that is shown.

import { get } from "./api.js";
import { jobButton, say } from "./actions.js";
import { Table, element, setText } from "./dom.js";
import { duration, seconds, time } from "./format.js";
import { jobLinkColumn, progressColumn } from "./progress.js";

const STATES = ["", "waiting", "queued", "running", "succeeded", "failed", "cancelled"];
const LIMIT = 25;
const REFRESH_MS = 3000;

const took = (job) => seconds(job.started_at, job.finished_at);

export class JobsView {
  title = "Jobs";

  constructor() {
    this.before = [];
    this.cursor = null;
    this.page = null;
    this.sorted = null;
    this.ascending = true;
    this.asked = 0;
    this.table = new Table("Jobs, newest first", [
      jobLinkColumn,
      { name: "Kind", sort: (job) => job.kind, text: (job) => job.kind },
      { name: "Queue", sort: (job) => job.queue, text: (job) => job.queue },
      { name: "State", sort: (job) => job.state, text: (job) => job.state },
      progressColumn,
      { name: "Submitted", sort: (job) => job.created_at ?? "", text: (job) => time(job.created_at) },
      { name: "Duration", number: true, sort: (job) => took(job) ?? -1, text: (job) => duration(took(job)) },
      { name: "Owner", sort: (job) => job.owner ?? "", text: (job) => job.owner ?? "" },
      jobButton(),
    ], (job) => job.id, { sort: (column) => this.sort(column) });
    this.form = this.makeForm();
    this.back = element("button", { type: "button", onclick: () => this.turn(false) }, "Newer");
    this.next = element("button", { type: "button", onclick: () => this.turn(true) }, "Older");
    this.count = element("span", { class: "dim", role: "status" });
    this.node = element("div", {}, element("h1", {}, "Jobs"), this.form, this.table.node,
      element("p", {}, this.back, " ", this.next, " ", this.count));
    this.load();
    this.timer = setInterval(() => this.load(), REFRESH_MS);
  }

  makeForm() {
    const state = element("select", { name: "state" });
    for (const name of STATES) state.append(element("option", { value: name }, name || "any"));
    const text = (name) => element("input", { name, autocomplete: "off", size: 14 });
    const form = element("form", { "aria-label": "Filter jobs" }, element("label", {}, "State", state));
    for (const name of ["kind", "queue", "name", "tag", "owner"]) {
      form.append(element("label", {}, name[0].toUpperCase() + name.slice(1), text(name)));
    }
    form.append(element("button", {}, "Filter"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.restart();
    });
    state.addEventListener("change", () => this.restart());
    return form;
  }

  restart() {
    this.before = [];
    this.cursor = null;
    this.load(true);
  }

  turn(older) {
    if (older) {
      this.before.push(this.cursor);
      this.cursor = this.page.next;
    } else this.cursor = this.before.pop() ?? null;
    this.load(true);
  }

  async load(byHand = false) {
    const words = new URLSearchParams({ limit: LIMIT });
    for (const [name, value] of new FormData(this.form)) if (value.trim()) words.set(name, value.trim());
    if (this.cursor) words.set("next", this.cursor);
    const asked = ++this.asked;
    try {
      const page = await get(`/jobs?${words}`);
      if (asked !== this.asked) return;  // an answer to older filters
      this.page = page;
      if (byHand) say("");
      this.paint();
    } catch (problem) {
      if (byHand && asked === this.asked) say(problem.message);
    }
  }

  sort(column) {
    this.ascending = this.sorted === column ? !this.ascending : true;
    this.sorted = column;
    this.table.markSorted(column.name, this.ascending);
    this.paint();
  }

  paint() {
    if (!this.page) return;
    const jobs = [...this.page.jobs];
    if (this.sorted) {
      const [of, sign] = [this.sorted.sort, this.ascending ? 1 : -1];
      jobs.sort((one, other) => sign * (of(one) < of(other) ? -1 : of(one) > of(other) ? 1 : 0));
    }
    this.table.show(jobs, "No job fits.");
    this.back.disabled = !this.before.length;
    this.next.disabled = !this.page.next;
    setText(this.count, `${jobs.length} jobs, page ${this.before.length + 1}`);
  }

  show() {}

  close() {
    clearInterval(this.timer);
  }
}
