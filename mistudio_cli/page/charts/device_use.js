// What a job's GPU did while the job ran: part of the view of a job.

import { element, setText } from "../dom.js";
import { History, HistoryCharts, LiveHistory, deviceName, hasValue } from "./history.js";

const HOUR_S = 3600;
const DAY_S = 24 * HOUR_S;
const CHARTS = [
  { title: "GPU utilization", unit: "%", field: "utilisation_percent" },
  { title: "GPU memory used", unit: "GiB", field: "memory_used_bytes", scale: 2 ** -30 },
];

// Whether a row of the history is the device that the job used: "cuda:0", of a MIG instance "cuda:0:1", on its host.
function isDeviceOf(job, row) {
  return job.worker?.endsWith(`@${row.host}`) && job.device?.split(" ")[0] === `cuda:${deviceName(row, [row]).slice("GPU ".length)}`;
}

export class DeviceUse {
  constructor() {
    this.note = element("p", { class: "dim" });
    this.box = element("div");
    this.node = element("div", { hidden: true }, element("h2", {}, "GPU while it ran"), this.box, this.note);
    this.live = null;
  }

  // Begins with the first job that has a GPU; later calls say when it ended.
  show(job) {
    this.job = job;
    if (!job.started_at || !job.device?.startsWith("cuda:")) return;
    this.node.hidden = false;
    const began = Date.parse(job.started_at) / 1000;
    const ended = job.finished_at ? Date.parse(job.finished_at) / 1000 : null;
    const age = Date.now() / 1000 - began;
    const span = age > HOUR_S ? "24h" : "1h";
    if (ended !== null && Date.now() / 1000 - ended > DAY_S) return setText(this.note, "What GPUs did is kept for a day.");
    if (this.span !== span) this.begin(span);
    this.between = [began, ended ?? Infinity];
  }

  begin(span) {
    this.close();
    this.span = span;
    this.charts = new HistoryCharts(CHARTS, "device use", (row) => isDeviceOf(this.job, row));
    this.live = new LiveHistory(new History("devices", span), span === "1h" ? 5000 : 60000, (history) => this.paint(history));
    this.box.replaceChildren(this.charts.node, this.live.node);
  }

  paint(history) {
    const step = (history.at[1] ?? 0) - (history.at[0] ?? 0);
    const isWithin = history.at.map((time) => time > this.between[0] - step && time < this.between[1] + step);
    const only = (values) => values.filter((value, place) => isWithin[place]);
    const rows = history.rows.map((row) => Object.fromEntries(
      Object.entries(row).map(([name, values]) => [name, Array.isArray(values) ? only(values) : values]))).filter(hasValue);
    this.charts.show({ part: history.part, at: only(history.at), rows });
    setText(this.note, this.charts.node.hidden ? "Nothing was recorded of its GPU." : "");
  }

  close() {
    this.live?.close();
    this.charts?.close();
  }
}
