// The view Now: jobs that run, the newest others, queues, GPUs and workers.

import { jobButton, queueButton } from "../parts/actions.js";
import { Table, element, setText } from "../dom.js";
import { bytes, duration, plain } from "../format.js";
import { RecentChart } from "../charts/history.js";
import { jobLinkColumn, kindColumn, progressColumn, stateColumn } from "../parts/progress.js";

const HISTORY_MS = 5000;
const MOST_OTHERS = 8;

export class NowView {
  title = "Now";

  constructor() {
    this.running = new Table("Running jobs", [
      jobLinkColumn,
      kindColumn,
      progressColumn,
      { name: "ETA", number: true, text: (job) => duration(job.eta_s) },
      { name: "Worker", text: (job) => plain(job.worker) },
      { name: "Device", text: (job) => plain(job.device) },
      jobButton(),
    ], (job) => job.id);
    this.others = new Table("Newest jobs that are not running", [
      jobLinkColumn,
      kindColumn,
      stateColumn,
      { ...progressColumn, name: "Reason" },
    ], (job) => job.id);
    this.queues = new Table("Queues", [
      { name: "Queue", text: (queue) => queue.name },
      { name: "State", text: (queue) => queue.state },
      { name: "Pending", number: true, text: (queue) => plain(queue.pending) },
      { name: "Running", number: true, text: (queue) => plain(queue.running) },
      { name: "Oldest wait", number: true, text: (queue) => duration(queue.oldest_age_s) },
      { name: "ETA", number: true, text: (queue) => duration(queue.pending ? queue.eta_s : null) },
      { name: "Slots", number: true, text: (queue) => plain(queue.slots) },
      queueButton(),
    ], (queue) => queue.name);
    this.unknown = element("p", { class: "dim" });
    this.devices = new Table("GPUs", [
      { name: "GPU", text: (card) => `${card.index} ${card.name ?? ""}` },
      { name: "Utilization", number: true, text: (card) => plain(card.utilisation_percent, " %") },
      { name: "Memory", number: true, text: (card) => `${bytes(card.memory_used_bytes)} of ${bytes(card.memory_total_bytes)}` },
      { name: "Temperature", number: true, text: (card) => plain(card.temperature_c, " °C") },
      { name: "Power", number: true, text: (card) => plain(card.power_w === null ? null : Math.round(card.power_w), " W") },
      { name: "Jobs", text: (card) => plain(card.jobs?.join(", ")) },
      { name: "Error", text: (card) => card.error ?? "" },
    ], (card) => card.instance === null || card.instance === undefined ? card.uuid ?? card.index : `${card.uuid} ${card.instance}`);
    this.workers = new Table("Workers", [
      { name: "Worker", text: (worker) => worker.name },
      { name: "State", text: (worker) => worker.state },
      { name: "Busy", number: true, text: (worker) => `${plain(worker.busy)} of ${worker.slots}` },
      { name: "Queues", text: (worker) => worker.queues.join(", ") },
      { name: "Last heartbeat", number: true, text: (worker) => worker.seen_age_s === undefined ? "–" : duration(worker.seen_age_s) },
    ], (worker) => `${worker.name} ${worker.pid}`);
    this.pending = new RecentChart("queues", HISTORY_MS, { title: "Pending jobs, last 15 min", field: "pending" });
    this.utilization = new RecentChart("devices", HISTORY_MS,
      { title: "GPU utilization, last 15 min", unit: "%", field: "utilisation_percent" });
    this.node = element("div", {}, element("h1", {}, "Now"), this.running.node, this.others.node, this.pending.node, this.queues.node,
      this.unknown, this.utilization.node, this.devices.node, this.workers.node);
  }

  show(state) {
    if (!state) return;
    const unread = "Could not be read yet.";
    const jobs = state.jobs && state.order.map((id) => state.jobs[id]).filter(Boolean);
    this.running.show((jobs ?? []).filter((job) => job.state === "running"), jobs ? "No job is running." : unread);
    const others = (jobs ?? []).filter((job) => job.state !== "running").slice(0, MOST_OTHERS);
    const withTurn = (job) => ({ ...job, queueState: state.queues?.[job.queue]?.state, place: state.places?.[job.id] });
    this.others.show(others.map(withTurn), jobs ? "No other job." : unread);
    const queues = Object.values(state.queues ?? {});
    this.queues.show(queues, state.queues ? "No queue." : unread);
    setText(this.unknown, queues.filter((queue) => queue.eta_unknown).map((queue) => `${queue.name}: ${queue.eta_unknown}`).join(" "));
    this.devices.show(state.devices ?? [], state.devices_reason ?? "No GPU.");
    this.workers.show(Object.values(state.workers ?? {}), state.workers ? "No worker runs. Start them with: mistudio workers start" : unread);
  }

  close() {
    this.pending.close();
    this.utilization.close();
  }
}
