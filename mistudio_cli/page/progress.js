// The cell of a job's progress: a bar, and the same as text.

import { element, setText } from "./dom.js";
import { fraction, progressText } from "./format.js";

export const progressColumn = {
  name: "Progress",
  make: () => element("span", {}, element("progress", { max: 1 }), element("span")),
  update: (node, job) => {
    const [bar, text] = node.children;
    const progress = job.state === "succeeded" ? null : job.progress;  // its last phase is no news
    const done = fraction(progress);
    bar.hidden = done === null;
    bar.value = done ?? 0;
    bar.setAttribute("aria-label", `Progress of ${job.name}`);
    setText(text, ` ${progressText(progress)}`);
  },
};

export const jobLinkColumn = {
  name: "Name",
  class: "name",
  sort: (job) => job.name,
  make: () => element("a"),
  update: (link, job) => {
    link.setAttribute("href", `#/jobs/${encodeURIComponent(job.id)}`);
    setText(link, job.name || job.id);
  },
};
