// The view Now: running jobs, queues, GPUs and workers.

import { jobButton, queueButton } from "./actions.js";
import { Table, element } from "./dom.js";
import { bytes, duration, plain } from "./format.js";
import { jobLinkColumn, progressColumn } from "./progress.js";

export class NowView {
  title = "Now";

  constructor() {
    this.running = new Table("Running jobs", [
      jobLinkColumn,
      { name: "Kind", text: (job) => job.kind },
      progressColumn,
      { name: "ETA", number: true, text: (job) => duration(job.eta_s) },
      { name: "Worker", text: (job) => plain(job.worker) },
      { name: "Device", text: (job) => plain(job.device) },
      jobButton(),
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
    ], (worker) => worker.name);
    this.node = element("div", {}, element("h1", {}, "Now"),
      this.running.node, this.queues.node, this.devices.node, this.workers.node);
  }

  show(state) {
    if (!state) return;
    const unread = "Could not be read yet.";
    const jobs = state.jobs && state.order.map((id) => state.jobs[id]).filter((job) => job?.state === "running");
    this.running.show(jobs ?? [], jobs ? "No job is running." : unread);
    this.queues.show(Object.values(state.queues ?? {}), state.queues ? "No queue." : unread);
    this.devices.show(state.devices ?? [], state.devices_reason ?? "No GPU.");
    this.workers.show(Object.values(state.workers ?? {}), state.workers ? "No worker runs. Start them with: mistudio workers start" : unread);
  }

  close() {}
}
