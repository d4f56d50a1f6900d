// The jobs that a job comes from or leads to, as links.

import { Table } from "../dom.js";
import { jobHref, linkColumn } from "./columns.js";
import { plain } from "../format.js";

export function lineageTable() {
  return new Table("Related jobs", [
    { name: "Relation", text: ({ relation }) => relation },
    linkColumn("Job", ({ job }) => jobHref(job.id), ({ job }) => job.name || job.id, { class: "name" }),
    { name: "Kind", text: ({ job }) => plain(job.kind) },
    { name: "State", text: ({ job }) => job.state === null ? "record removed" : plain(job.state) },
  ], ({ relation, job }) => `${relation} ${job.id}`);
}

export function relativesOf(job) {
  const relatives = [
    ...job.parent_jobs.map((parent) => ["parent", parent]),
    ...job.children.map((child) => ["child", child]),
    ["retry of", job.retry_of && { id: job.retry_of }],
    ["resumes the checkpoint of", job.from_checkpoint && { id: job.from_checkpoint }],
  ];
  return relatives.filter(([, other]) => other).map(([relation, other]) => ({ relation, job: other }));
}
