// The state, kept up to date: server-sent events read with fetch (EventSource sends no token), else polling.

import { get, stream } from "./api.js";

const POLL_MS = 3000;
const RETRY_MS = 2000;
const QUIET_MS = 5000;
const MOST_SILENT_MS = 10000;

export class Live {
  constructor(onState, onProblem) {
    this.onState = onState;
    this.onProblem = onProblem;
    this.state = null;
    this.lastId = null;
    this.receivedAt = Date.now();
    this.way = "connecting";
    this.failures = 0;
    this.abort = null;
  }

  start() {
    this.follow();
    setInterval(() => this.watch(), 1000);
  }

  // Seconds since the last sign of the server; null while it is well.
  staleFor() {
    const silent = Date.now() - this.receivedAt;
    return silent > (this.way === "live" ? MOST_SILENT_MS : POLL_MS + 2000) ? Math.floor(silent / 1000) : null;
  }

  async follow() {
    for (;;) {
      try {
        await this.read();
      } catch (problem) {
        if (problem.status) this.onProblem(problem);
      }
      this.way = "polling";
      this.failures += 1;
      await this.poll();
      await new Promise((done) => setTimeout(done, this.failures > 3 ? POLL_MS : RETRY_MS));
    }
  }

  async read() {
    this.abort = new AbortController();
    const reader = (await stream(this.lastId, this.abort.signal)).pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      this.received();
      this.way = "live";
      this.failures = 0;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) this.take(event);
    }
  }

  take(event) {
    const fields = {};
    for (const line of event.split("\n")) {
      const at = line.indexOf(": ");
      if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2);
    }
    if (!fields.data) return;
    try {
      const data = JSON.parse(fields.data);
      if (fields.event === "state") this.state = data;
      else applyPatch(this.state, data);
    } catch (error) {  // a gap: the whole state again
      this.lastId = null;
      throw error;
    }
    this.lastId = fields.id;
    this.onState(this.state);
  }

  async poll() {
    try {
      const [queues, jobs, stats, devices, hosts] = await Promise.all(
        ["/queues", "/jobs?limit=50", "/workers/stats", "/devices", "/hosts"].map((path) => get(path, 2500)));
      this.received();
      this.lastId = null;
      this.state = {
        read_at: queues.read_at, order: jobs.jobs.map((job) => job.id), jobs: keyed(jobs.jobs, "id"),
        queues: queues.queues && keyed(queues.queues, "name"), workers: keyed(workersOf(stats), "name"),
        devices: devices.devices, devices_reason: devices.devices_reason, hosts: keyed(hosts.hosts, "name"),
        host: null, errors: [...queues.errors, ...devices.errors],
      };
      this.onState(this.state);
    } catch (problem) {
      if (problem.status) this.onProblem(problem);
    }
  }

  received() {
    this.receivedAt = Date.now();
  }

  // Nothing is sent while nothing changes: then the server is asked whether it is there.
  async watch() {
    const silent = Date.now() - this.receivedAt;
    if (this.way !== "live" || silent < QUIET_MS) return;
    try {
      await get("/livez", 2000);
      this.received();
    } catch {
      if (silent > MOST_SILENT_MS) this.abort.abort();
    }
  }
}

function workersOf(stats) {
  return Object.entries(stats).map(([name, worker]) => ({ name, state: "up", ...worker }));
}

function keyed(rows, key) {
  return Object.fromEntries(rows.map((row) => [row[key], row]));
}

// RFC 6902: what the feed sends are add, remove and replace on objects.
export function applyPatch(state, steps) {
  for (const step of steps) {
    const names = step.path.split("/").slice(1).map((name) => name.replaceAll("~1", "/").replaceAll("~0", "~"));
    const last = names.pop();
    let at = state;
    for (const name of names) at = at[name];
    if (!Object.hasOwn(at, last) && step.op !== "add") throw new Error("a patch does not fit");
    if (step.op === "remove") delete at[last];
    else Object.defineProperty(at, last, { value: step.value, writable: true, enumerable: true, configurable: true });
  }
}
