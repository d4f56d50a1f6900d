// The cells of a job's state and of its progress: a bar and the same as text, or why it is not running.

import { element, setText } from "../dom.js";
import { jobHref, linkColumn } from "./columns.js";
import { fraction, progressText, reasonText } from "../format.js";

const HAS_REASON = ["waiting", "queued", "failed", "cancelled"];

export const progressColumn = {
  name: "Progress",
  make: () => element("span", {}, element("progress", { max: 1 }), element("span")),
  update: (node, job) => {
    const [bar, text] = node.children;
    const progress = job.state === "running" ? job.progress : null;  // the last phase of another is no news
    const done = fraction(progress);
    bar.hidden = done === null;
    bar.value = done ?? 0;
    bar.setAttribute("aria-label", `Progress of ${job.name}`);
    setText(text, ` ${HAS_REASON.includes(job.state) ? reasonText(job) : progressText(progress)}`);
  },
};

export const stateColumn = {
  name: "State",
  class: "word",
  sort: (job) => job.state,
  make: () => element("span"),
  update: (node, job) => {
    node.className = job.state === "failed" ? "bad" : "";
    setText(node, job.state);
  },
};

export const kindColumn = { name: "Kind", class: "word", sort: (job) => job.kind, text: (job) => job.kind };

export const jobLinkColumn = linkColumn("Name", (job) => jobHref(job.id), (job) => job.name || job.id,
  { class: "name", sort: (job) => job.name });
