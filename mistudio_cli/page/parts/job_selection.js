// Jobs chosen by checkboxes, over several pages of the list, and what can be done with them.

import { token } from "../api.js";
import { cancelAll, retryAll } from "./bulk_actions.js";
import { element, setText } from "../dom.js";

export const [LEAST_COMPARED, MOST_COMPARED] = [2, 8];

export class JobSelection {
  constructor() {
    this.chosen = new Map();
    this.shown = [];
    this.anchor = null;  // the last one clicked: Shift extends from it
    this.all = element("input", { type: "checkbox" });
    this.all.addEventListener("change", () => this.choose(this.shown, this.all.checked));
    this.count = element("span", { role: "status" });
    this.compare = element("a");
    this.cancel = element("button", { type: "button", onclick: () => cancelAll(this.jobs) }, "Cancel selected");
    this.retry = element("button", { type: "button", onclick: () => retryAll(this.jobs) }, "Retry selected");
    this.clear = element("button", { type: "button", onclick: () => this.choose(this.jobs, false) }, "Clear selection");
    this.node = element("p", { class: "controls", role: "group", "aria-label": "Selection" },
      element("label", {}, this.all, " Select all on this page"), this.count, this.compare, this.cancel, this.retry, this.clear);
    this.column = { name: "Select", class: "select", make: () => this.makeBox(), update: (box, job) => this.updateBox(box, job) };
    this.boxes = new Set();
    this.update();
  }

  get jobs() {
    return [...this.chosen.values()];
  }

  makeBox() {
    const box = element("input", { type: "checkbox" });
    box.addEventListener("click", (event) => this.click(box.job, box.checked, event.shiftKey));
    this.boxes.add(box);
    return box;
  }

  updateBox(box, job) {
    box.job = job;
    box.checked = this.chosen.has(job.id);
    box.setAttribute("aria-label", `Select ${job.name || job.id}`);
  }

  click(job, isChosen, isRange) {
    const places = [this.anchor, job.id].map((id) => this.shown.findIndex((each) => each.id === id));
    const hasRange = isRange && !places.includes(-1);
    this.choose(hasRange ? this.shown.slice(Math.min(...places), Math.max(...places) + 1) : [job], isChosen);
    this.anchor = job.id;
  }

  choose(jobs, isChosen) {
    for (const job of jobs) {
      if (isChosen) this.chosen.set(job.id, job);
      else this.chosen.delete(job.id);
    }
    this.update();
  }

  // The jobs of the page in the order shown; their states are newer than those that were chosen.
  show(jobs) {
    this.shown = jobs;
    for (const job of jobs) if (this.chosen.has(job.id)) this.chosen.set(job.id, job);
    this.update();
  }

  update() {
    for (const box of this.boxes) {
      if (box.job && !box.isConnected) this.boxes.delete(box);
      else if (box.job) box.checked = this.chosen.has(box.job.id);
    }
    const here = this.shown.filter((job) => this.chosen.has(job.id)).length;
    this.all.checked = here > 0 && here === this.shown.length;
    this.all.indeterminate = here > 0 && here < this.shown.length;
    this.offer(this.chosen.size);
  }

  offer(count) {
    const canCompare = count >= LEAST_COMPARED && count <= MOST_COMPARED;
    setText(this.count, count ? `${count} selected${canCompare ? "" : ` (${LEAST_COMPARED} to ${MOST_COMPARED} can be compared)`}` : "");
    this.compare.hidden = !canCompare;
    this.compare.setAttribute("href", `#/compare/${[...this.chosen.keys()].map(encodeURIComponent).join(",")}`);
    setText(this.compare, `Compare ${count} jobs`);
    this.cancel.hidden = this.retry.hidden = !count || !token();
    this.clear.hidden = !count;
  }
}
