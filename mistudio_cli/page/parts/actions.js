// What changes something: each asks first and reports its outcome, with what undoes it; without a token there is no button.

import { idempotencyKey, post, token } from "../api.js";
import { element, setText } from "../dom.js";

const dialog = document.getElementById("confirm");
const outcome = document.getElementById("outcome");

// `undo`: { name, act }, a button beside the sentence, which acts once.
export function say(text, undo = null) {
  if (!undo && !outcome.childElementCount) return setText(outcome, text);
  const hadFocus = outcome.contains(document.activeElement);
  outcome.replaceChildren(text, ...(undo ? [" ", undoButton(undo)] : []));
  if (hadFocus) (outcome.querySelector("button") ?? document.getElementById("main")).focus();
}

function undoButton({ name, act }) {
  return element("button", { type: "button", onclick: (event) => {
    if (event.target.ariaDisabled) return;
    event.target.ariaDisabled = "true";  // it keeps the focus, which a disabled one would lose
    act();
  } }, name);
}

export function confirmed(question) {
  setText(document.getElementById("question"), question);
  dialog.returnValue = "";
  dialog.showModal();
  document.getElementById("no").focus();
  return new Promise((answer) => dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true }));
}

document.getElementById("yes").addEventListener("click", () => dialog.close("yes"));
document.getElementById("no").addEventListener("click", () => dialog.close("no"));

// Does it and says what came of it: `act` returns the sentence and, where there is one, what undoes it.
async function attempt(act) {
  try {
    say(...await act());
  } catch (problem) {
    say(`Not done: ${problem.message}`);
  }
}

export const sendCancel = (job) => post(`/jobs/${encodeURIComponent(job.id)}/cancel`);

export const sendRetry = (job) => post(`/jobs/${encodeURIComponent(job.id)}/retry`, {}, idempotencyKey());

const retryNow = (job) => attempt(async () => [`Submitted again as ${(await sendRetry(job)).jobs.map((each) => each.id).join(", ")}.`]);

async function cancel(job) {
  if (!(await confirmed(`Cancel job ${job.name} (${job.id})?`))) return;
  await attempt(async () => {
    const made = await sendCancel(job);
    if (made.state === "running") return [`${job.name} will stop after a checkpoint.`];
    return [`${job.name}: ${made.state}.`, made.state === "cancelled" ? { name: "Retry", act: () => retryNow(job) } : null];
  });
}

async function retry(job) {
  if (await confirmed(`Retry job ${job.name} (${job.id})?`)) await retryNow(job);
}

// Pausing is undone by resuming, and the other way.
function switchNow(name, verb) {
  const other = verb === "pause" ? "resume" : "pause";
  return attempt(async () => {
    const made = await post(`/queues/${encodeURIComponent(name)}/${verb}`);
    return [made.message, { name: "Undo", act: () => switchNow(name, other) }];
  });
}

async function switchQueue(queue) {
  const verb = queue.state === "paused" ? "resume" : "pause";
  if (await confirmed(`${verb === "pause" ? "Pause" : "Resume"} queue ${queue.name}?`)) await switchNow(queue.name, verb);
}

export const ENDED = ["succeeded", "failed", "cancelled"];

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
