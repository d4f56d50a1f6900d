// Tables that compare jobs: their last metrics, and the parameters in which they differ.

import { Table } from "../dom.js";
import { jobHref, linkColumn } from "./columns.js";
import { duration, number, plain, seconds } from "../format.js";
import { metricNames } from "../charts/metric_charts.js";

const MOST_METRICS = 8;
const SPEED = "tokens_per_s";

function valueText(value) {
  if (value === undefined || value === null) return "–";
  return typeof value === "string" && value ? value : JSON.stringify(value);
}

const jobColumn = linkColumn("Job", ({ job }) => jobHref(job.id), ({ label }) => label, { class: "name" });

export function metricsShown(jobs) {
  return metricNames(jobs.map(({ job }) => job.metrics)).filter((name) => name !== SPEED).slice(0, MOST_METRICS);
}

// Columns for the metrics that these jobs have now.
export function resultsTable(jobs) {
  return new Table("Results: last metrics", [
    jobColumn,
    { name: "Kind", text: ({ job }) => job.kind },
    { name: "State", text: ({ job }) => job.state },
    { name: "Duration", number: true, text: ({ job }) => duration(seconds(job.started_at, job.finished_at)) },
    { name: "Tokens/s", number: true, text: ({ job }) => plain(number(job.result?.[SPEED] ?? job.metrics?.[SPEED])) },
    ...metricsShown(jobs).map((name) => ({ name, number: true, text: ({ job }) => number(job.metrics?.[name]) })),
  ], ({ job }) => job.id);
}

export function paramsTable(jobs) {
  return new Table("Parameters that differ", [
    { name: "Parameter", text: ({ name }) => name },
    ...jobs.map(({ label }, place) => ({ name: label, text: ({ values }) => valueText(values[place]) })),
  ], ({ name }) => name);
}

// `different`: [{ name, values }], a value for each of `allParams`, undefined where it has no such parameter.
export function differences(allParams) {
  const names = [...new Set(allParams.flatMap((params) => Object.keys(params)))];
  const rows = names.map((name) => ({ name, values: allParams.map((params) => Object.hasOwn(params, name) ? params[name] : undefined) }));
  const isEqual = ({ values }) => new Set(values.map((value) => JSON.stringify(value))).size === 1;
  return { different: rows.filter((row) => !isEqual(row)), equal: rows.filter(isEqual).length };
}
