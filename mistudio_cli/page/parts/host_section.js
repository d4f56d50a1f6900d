// One host of the view Machines: what it is, its GPUs with charts, the processes on them, its workers and jobs.

import { Table, element, setText } from "../dom.js";
import { bytes, countOf, duration, plain } from "../format.js";
import { HistoryCharts } from "../charts/history.js";
import { jobHref, pairsTable } from "./columns.js";
import { jobLinkColumn, progressColumn } from "./progress.js";

const GIB = 2 ** 30;
const CHARTS = [
  { title: "Utilization", unit: "%", field: "utilisation_percent" },
  { title: "Memory used", unit: "GiB", field: "memory_used_bytes", scale: 1 / GIB },
  { title: "Power", unit: "W", field: "power_w" },
  { title: "Temperature", unit: "°C", field: "temperature_c" },
];

const known = (value) => value !== null && value !== undefined;

function label(card) {
  return known(card.instance) ? `${card.index}, instance ${card.instance}` : `${card.index}`;
}

function jobLinks(ids) {
  return (ids ?? []).flatMap((id, place) => [...(place ? [", "] : []), element("a", { href: jobHref(id) }, id)]);
}

// A cell with links to jobs, painted again only when they change, so that focus stays.
function jobsColumn(jobsOf) {
  return {
    name: "Jobs",
    make: () => element("span"),
    update: (node, row) => {
      const jobs = jobsOf(row);
      const words = jobs === null || jobs === undefined ? "–" : jobs.join(" ");
      if (node.dataset.jobs === words) return;
      node.dataset.jobs = words;
      node.replaceChildren(...(jobs?.length ? jobLinks(jobs) : ["–"]));
    },
  };
}

function facts(host, machine) {
  const heartbeat = known(host.seen_age_s) ? `${duration(host.seen_age_s)} ago` : null;
  const memory = machine ? `${bytes(machine.memory_available_bytes)} free of ${bytes(machine.memory_total_bytes)}` : bytes(host.memory_bytes);
  const disk = machine && known(machine.disk_free_bytes) ? `${bytes(machine.disk_free_bytes)} free of ${bytes(machine.disk_total_bytes)}`
    : known(host.store_free_bytes) ? `${bytes(host.store_free_bytes)} free` : host.store_error;
  return [
    ["State", host.state],
    ["Last heartbeat", heartbeat],
    ["Clock offset", known(host.clock_offset_s) ? `${host.clock_offset_s.toFixed(3)} s` : null],
    ["Version", (host.supervisors ?? []).map((each) => each.version ?? "unknown").join(", ") || host.version],
    ["Cores", host.cores ?? machine?.cpus],
    ["CPU", machine && known(machine.cpu_percent) ? `${Math.round(machine.cpu_percent)} %` : null],
    ["Load", machine?.load_1m ?? host.load_1m],
    ["Memory", memory],
    ["Disk of the store", disk],
    ["Store", host.store],
    ["Workers", known(host.workers) ? `${host.workers}, ${countOf(host.busy, "job")} running` : null],
    ["Homes", (host.supervisors ?? []).map((each) => `${each.home} (${each.state})`).join(", ")],
  ].filter(([, value]) => known(value) && value !== "");
}

export class HostSection {
  constructor(name, isOpen) {
    this.name = name;
    this.facts = pairsTable("Host");
    this.gpus = new Table("GPUs", [
      { name: "GPU", text: (card) => `${label(card)} ${card.name ?? ""}` },
      { name: "Utilization", number: true, text: (card) => plain(card.utilisation_percent, " %") },
      { name: "Memory", number: true, text: (card) => `${bytes(card.memory_used_bytes)} of ${bytes(card.memory_total_bytes)}` },
      { name: "Others", number: true, text: (card) => bytes(card.others_bytes) },
      { name: "Power", number: true, text: (card) => plain(known(card.power_w) ? Math.round(card.power_w) : null, " W") },
      { name: "Temperature", number: true, text: (card) => plain(card.temperature_c, " °C") },
      { name: "Throttled by", text: (card) => card.throttle_reasons?.length === 0 ? "nothing" : plain(card.throttle_reasons?.join(", ")) },
      jobsColumn((card) => card.jobs),
      { name: "Error", text: (card) => card.error ?? "" },
    ], (card) => `${card.uuid} ${label(card)}`);
    this.processes = new Table("Processes on GPUs", [
      { name: "PID", text: (process) => process.pid },
      { name: "GPU", text: (process) => process.gpu },
      { name: "User", text: (process) => plain(process.user) },
      { name: "Memory", number: true, text: (process) => bytes(process.memory_bytes) },
      jobsColumn((process) => process.job ? [process.job] : []),
      { name: "Command", class: "command", text: (process) => plain(process.command) },
    ], (process) => `${process.gpu} ${process.pid}`);
    this.workers = new Table("Workers", [
      { name: "Worker", text: (worker) => worker.name },
      { name: "State", text: (worker) => worker.state },
      { name: "Busy", number: true, text: (worker) => `${plain(worker.busy)} of ${worker.slots}` },
      { name: "Queues", text: (worker) => worker.queues.join(", ") },
      { name: "Memory", number: true, text: (worker) => bytes(worker.pss_bytes) },
      { name: "Last heartbeat", number: true, text: (worker) => known(worker.seen_age_s) ? duration(worker.seen_age_s) : "–" },
    ], (worker) => `${worker.name} ${worker.pid}`);
    this.jobs = new Table("Running jobs", [jobLinkColumn, { name: "Kind", text: (job) => job.kind }, progressColumn,
      { name: "Device", text: (job) => plain(job.device) }], (job) => job.id);
    this.charts = new HistoryCharts(CHARTS, `machine ${name}`, (row) => row.host === name);
    this.state = element("span", { class: "dim" });
    this.node = element("details", { open: isOpen, class: "host" },
      element("summary", {}, element("h2", {}, name), " ", this.state),
      this.facts.node, this.gpus.node, this.charts.node, this.processes.node, this.jobs.node, this.workers.node);
  }

  // `devices` is what this machine's driver says; null on another host.
  show(host, state, devices) {
    const machine = devices === null && state.host?.name !== this.name ? null : state.host;
    setText(this.state, host.state);
    this.facts.show(facts(host, machine), "");
    const cards = devices?.devices ?? (host.gpus ?? []).map(withUsed);
    this.gpus.show(cards, host.gpus_error ?? devices?.devices_reason ?? "No GPU.");
    this.processes.show(processesOn(cards), whyNoProcesses(cards));
    this.workers.show(Object.values(state.workers ?? {}).filter((worker) => worker.name.endsWith(`@${this.name}`)), "No worker.");
    const jobs = Object.values(state.jobs ?? {});
    this.jobs.show(jobs.filter((job) => job.state === "running" && job.worker?.endsWith(`@${this.name}`)), "No job is running here.");
  }

  showHistory(history) {
    this.charts.show(history);
  }

  close() {
    this.charts.close();
  }
}

function withUsed(card) {
  const isKnown = known(card.memory_total_bytes) && known(card.memory_free_bytes);
  return { ...card, memory_used_bytes: isKnown ? card.memory_total_bytes - card.memory_free_bytes : null };
}

function processesOn(cards) {
  const named = cards.flatMap((card) => (card.processes ?? []).map((process) => ({ ...process, gpu: label(card) })))
    .sort((one, other) => (other.memory_bytes ?? 0) - (one.memory_bytes ?? 0));
  const more = cards.filter((card) => card.more_processes)
    .map((card) => ({ pid: `${card.more_processes} more`, gpu: label(card), user: null, memory_bytes: null, command: "hold less memory" }));
  return [...named, ...more];
}

function whyNoProcesses(cards) {
  const isUnread = cards.some((card) => !card.error && !known(card.processes));
  return isUnread ? "The processes could not be read." : "No process.";
}
