// What changes something: each asks first and reports its outcome; without a token there is no button.

import { post, token } from "./api.js";
import { element, setText } from "./dom.js";

const dialog = document.getElementById("confirm");

export function say(text) {
  setText(document.getElementById("outcome"), text);
}

function confirmed(question) {
  setText(document.getElementById("question"), question);
  dialog.returnValue = "";
  dialog.showModal();
  document.getElementById("no").focus();
  return new Promise((answer) => dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true }));
}

document.getElementById("yes").addEventListener("click", () => dialog.close("yes"));
document.getElementById("no").addEventListener("click", () => dialog.close("no"));

async function change(question, path, outcome, headers = {}) {
  if (!(await confirmed(question))) return;
  try {
    say(outcome(await post(path, {}, headers)));
  } catch (problem) {
    say(`Not done: ${problem.message}`);
  }
}

function cancel(job) {
  return change(`Cancel job ${job.name} (${job.id})?`, `/jobs/${encodeURIComponent(job.id)}/cancel`,
    (made) => made.state === "running" ? `${job.name} will stop after a checkpoint.` : `${job.name}: ${made.state}.`);
}

function retry(job) {
  const key = { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
  return change(`Retry job ${job.name} (${job.id})?`, `/jobs/${encodeURIComponent(job.id)}/retry`,
    (made) => `Submitted again as ${made.jobs.map((each) => each.id).join(", ")}.`, key);
}

function switchQueue(queue) {
  const verb = queue.state === "paused" ? "resume" : "pause";
  return change(`${verb === "pause" ? "Pause" : "Resume"} queue ${queue.name}?`, `/queues/${encodeURIComponent(queue.name)}/${verb}`,
    (made) => made.message);
}

const ENDED = ["succeeded", "failed", "cancelled"];

// A column or node with the button that a job's state allows.
export function jobButton() {
  return button((job) => ENDED.includes(job.state) ? ["Retry", retry] : ["Cancel", cancel],
    (job) => job.state === "succeeded" || (job.cancel_requested === true && !ENDED.includes(job.state)));
}

export function queueButton() {
  return button((queue) => queue.state === "paused" ? ["Resume", switchQueue] : ["Pause", switchQueue], () => false);
}

function button(choose, isHidden) {
  return {
    name: "Action",
    class: "action",
    make: () => {
      const made = element("button", { type: "button" });
      made.addEventListener("click", () => choose(made.item)[1](made.item));
      return made;
    },
    update: (made, item) => {
      made.item = item;
      setText(made, choose(item)[0]);
      made.setAttribute("aria-label", `${choose(item)[0]} ${item.name}`);
      made.hidden = !token() || isHidden(item);
    },
  };
}
