// The view SAEs: the SAEs of the store, a page at a time.

import { get } from "../api.js";
import { say } from "../parts/actions.js";
import { Table, element } from "../dom.js";
import { bytes, countOf, number, plain, time } from "../format.js";
import { jobHref, linkColumn } from "../parts/columns.js";
import { Paging } from "../parts/paging.js";
import { Sorting } from "../parts/sorting.js";

const LIMIT = 100;
const REFRESH_MS = 15000;

const nameOf = (sae) => sae.name;
const jobOf = (sae) => sae.job;

function text(name, of, kind) {
  return { name, class: kind, sort: (sae) => of(sae) ?? "", text: (sae) => plain(of(sae)) };
}

function measure(name, of, shown = number) {
  return { name, number: true, sort: (sae) => of(sae) ?? -Infinity, text: (sae) => shown(of(sae)) };
}

export class SaesView {
  title = "SAEs";

  constructor() {
    this.page = null;
    this.paging = new Paging(() => this.load(true), "Back", "Next");
    this.sorting = new Sorting(() => this.paint());
    this.asked = 0;
    this.table = new Table("SAEs of the store", [
      linkColumn("Name", (sae) => `#/saes/${encodeURIComponent(sae.name)}`, nameOf, { class: "name", sort: nameOf }),
      text("Architecture", (sae) => sae.trained_as ?? sae.architecture),
      text("Model", (sae) => sae.model),
      text("Hook", (sae) => sae.hooks?.join(", "), "name"),
      measure("d_in", (sae) => sae.d_in, plain),
      measure("d_sae", (sae) => sae.d_sae, plain),
      measure("L0", (sae) => sae.l0),
      measure("FVU", (sae) => sae.fvu),
      measure("Explained variance", (sae) => sae.explained_variance),
      measure("Dead features", (sae) => sae.dead_fraction, (share) => share === null ? "–" : `${number(100 * share)} %`),
      measure("Size", (sae) => sae.bytes, bytes),
      { name: "Made", class: "when", sort: (sae) => sae.created_at ?? "", text: (sae) => time(sae.created_at) },
      linkColumn("Job", (sae) => sae.job && jobHref(sae.job), jobOf, { class: "id", sort: jobOf }),
    ], nameOf, { sort: (column) => this.sorting.choose(this.table, column) });
    this.errors = element("ul");
    this.node = element("div", {}, element("h1", {}, "SAEs"), this.errors, this.table.node, this.paging.node);
    this.load();
    this.timer = setInterval(() => this.load(), REFRESH_MS);
  }

  async load(byHand = false) {
    if (document.hidden && this.page) return;
    const asked = ++this.asked;
    const words = new URLSearchParams({ limit: LIMIT, ...(this.paging.cursor ? { after: this.paging.cursor } : {}) });
    try {
      const page = await get(`/saes?${words}`);
      if (asked !== this.asked) return;
      this.page = page;
      if (byHand || this.hasFailed) say("");
      this.hasFailed = false;
      this.paint();
    } catch (problem) {
      if (asked !== this.asked) return;
      this.hasFailed = true;
      say(problem.message);
    }
  }

  paint() {
    if (!this.page) return;
    const saes = this.sorting.of(this.page.saes);
    this.table.show(saes, "No SAE. Train one: mistudio submit train --help");
    this.errors.replaceChildren(...this.page.errors.map((error) => element("li", {}, error.message)));
    this.paging.show(countOf(saes.length, "SAE"), this.page.next);
  }

  show() {}

  close() {
    this.asked += 1;
    clearInterval(this.timer);
  }
}
