// What is wrong, as sentences: the health report's warnings, what could not be read, workers and GPUs in trouble.

import { duration } from "./format.js";

const BAD_WORKERS = ["silent", "refused", "backoff", "hung", "fatal"];

export function alarmsOf(state, health) {
  const found = [...(health?.warnings ?? [])];
  for (const error of state?.errors ?? []) {
    const age = error.age_s === null || error.age_s === undefined ? "" : ` Shown: as it was ${duration(error.age_s)} ago.`;
    found.push(`${error.part}: ${error.message}.${age}`.replace("..", "."));
  }
  for (const worker of Object.values(state?.workers ?? {})) {
    if (BAD_WORKERS.includes(worker.state)) found.push(`Worker ${worker.name} is ${worker.state}.`);
  }
  for (const device of state?.devices ?? []) {
    if (device.error) found.push(`GPU ${device.index}: ${device.error}`);
  }
  for (const queue of Object.values(state?.queues ?? {})) {
    if (queue.state === "paused" && queue.pending) found.push(`Queue ${queue.name} is paused with ${queue.pending} pending.`);
  }
  return [...new Set(found)];
}
