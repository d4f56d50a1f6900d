// The view Jobs: a list by filters, sorted within the page that is shown.

import { get } from "../api.js";
import { jobButton, say } from "../parts/actions.js";
import { Table, element } from "../dom.js";
import { countOf, duration, seconds, time } from "../format.js";
import { JobSelection } from "../parts/job_selection.js";
import { Paging } from "../parts/paging.js";
import { jobLinkColumn, kindColumn, progressColumn, stateColumn } from "../parts/progress.js";
import { Sorting } from "../parts/sorting.js";

const STATES = ["", "waiting", "queued", "running", "succeeded", "failed", "cancelled"];
const LIMIT = 25;
const REFRESH_MS = 3000;

const took = (job) => seconds(job.started_at, job.finished_at);

export class JobsView {
  title = "Jobs";

  constructor() {
    this.page = null;
    this.paging = new Paging(() => this.load(true), "Newer", "Older");
    this.sorting = new Sorting(() => this.paint());
    this.asked = 0;
    this.selection = new JobSelection();
    this.table = new Table("Jobs, newest first", [
      this.selection.column,
      jobLinkColumn,
      kindColumn,
      { name: "Queue", class: "word", sort: (job) => job.queue, text: (job) => job.queue },
      stateColumn,
      progressColumn,
      { name: "Submitted", class: "when", sort: (job) => job.created_at ?? "", text: (job) => time(job.created_at) },
      { name: "Duration", number: true, sort: (job) => took(job) ?? -1, text: (job) => duration(took(job)) },
      { name: "Owner", sort: (job) => job.owner ?? "", text: (job) => job.owner ?? "" },
      jobButton(),
    ], (job) => job.id, { sort: (column) => this.sorting.choose(this.table, column) });
    this.form = this.makeForm();
    this.filters = this.accepted = [];  // as they were when the form was sent: what is being typed is none yet
    this.node = element("div", {}, element("h1", {}, "Jobs"), this.form, this.selection.node, this.table.node, this.paging.node);
    this.load();
    this.timer = setInterval(() => this.load(), REFRESH_MS);
  }

  makeForm() {
    const state = element("select", { name: "state" });
    for (const name of STATES) state.append(element("option", { value: name }, name || "any"));
    const text = (name) => element("input", { name, autocomplete: "off", size: 14, "data-search": name === "name" });
    const form = element("form", { "aria-label": "Filter jobs" }, element("label", {}, "State", state));
    for (const name of ["kind", "queue", "name", "tag", "owner"]) {
      form.append(element("label", {}, name[0].toUpperCase() + name.slice(1), text(name)));
    }
    form.append(element("button", {}, "Filter"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.filter();
    });
    state.addEventListener("change", () => this.filter());
    return form;
  }

  filter() {
    this.filters = [...new FormData(this.form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value);
    this.paging.restart();
  }

  async load(byHand = false) {
    const words = new URLSearchParams([["limit", LIMIT], ...this.filters]);
    if (this.paging.cursor) words.set("next", this.paging.cursor);
    const asked = ++this.asked;
    try {
      const page = await get(`/jobs?${words}`);
      if (asked !== this.asked) return;  // an answer to older filters
      this.page = page;
      this.accepted = this.filters;
      if (byHand || this.hasFailed) say("");
      this.hasFailed = false;
      this.paint();
    } catch (problem) {
      if (asked !== this.asked) return;
      if (problem.status === 400) this.filters = this.accepted;  // the list stays as it is, and live
      else this.hasFailed = true;
      say(problem.message);
    }
  }

  paint() {
    if (!this.page) return;
    const jobs = this.sorting.of(this.page.jobs);
    this.table.show(jobs, "No job fits.");
    this.selection.show(jobs);
    this.paging.show(countOf(jobs.length, "job"), this.page.next);
  }

  show() {}

  close() {
    this.asked += 1;
    clearInterval(this.timer);
  }
}
