// Cancels or retries several jobs after one question, and says of each what came of it, by counts.

import { ENDED, confirmed, say, sendCancel, sendRetry } from "./actions.js";
import { countOf } from "../format.js";

const RETRIABLE = ["failed", "cancelled"];

export function cancelAll(jobs) {
  return changeAll(jobs, jobs.filter((job) => !ENDED.includes(job.state)), {
    verb: "Cancel",
    whyNone: "All selected jobs have ended.",
    send: sendCancel,
    result: (made) => made.state === "running" ? "will stop after a checkpoint" : made.state,
    undo: (done) => {
      const cancelled = done.filter(({ made }) => made.state === "cancelled").map(({ job }) => job);
      return cancelled.length ? { name: `Retry ${countOf(cancelled.length, "job")}`, act: () => sendAll(cancelled, RETRY) } : null;
    },
  });
}

export function retryAll(jobs) {
  return changeAll(jobs, jobs.filter((job) => RETRIABLE.includes(job.state)), RETRY);
}

const RETRY = {
  verb: "Retry",
  whyNone: "No selected job has failed or was cancelled.",
  send: sendRetry,
  result: () => "submitted again",
  undo: () => null,
};

async function changeAll(selected, fit, change) {
  if (!fit.length) return say(change.whyNone);
  const rest = selected.length - fit.length;
  const left = rest ? ` ${rest} of ${selected.length} selected stay as they are.` : "";
  if (await confirmed(`${change.verb} ${countOf(fit.length, "job")}?${left}`)) await sendAll(fit, change);
}

// One after the other: the server's Redis is asked for each.
async function sendAll(jobs, change) {
  const [done, counts, problems] = [[], new Map(), []];
  for (const job of jobs) {
    try {
      const made = await change.send(job);
      done.push({ job, made });
      counts.set(change.result(made), (counts.get(change.result(made)) ?? 0) + 1);
    } catch (problem) {
      problems.push(problem.message);
    }
  }
  const parts = [...counts].map(([result, count]) => `${count} ${result}`);
  if (problems.length) parts.push(`${problems.length} not done: ${[...new Set(problems)].join(" ")}`);
  say(`${countOf(jobs.length, "job")}: ${parts.join(", ")}`, change.undo(done));
}
