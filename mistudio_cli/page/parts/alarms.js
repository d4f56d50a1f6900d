// What is wrong, as the health report says it: a sentence for each cause, with its command as text and a button to copy it.

import { element, setText } from "../dom.js";
import { duration } from "../format.js";

const STEP_S = 10;  // of an age, so that an alarm is not announced again each second

// Each alarm is {sentence, command}; parts that could not be read again say how old what is shown is.
export function alarmsOf(state, health) {
  const causes = (health?.causes ?? []).map(alarmOf);
  const old = (state?.errors ?? []).filter((error) => error.age_s >= STEP_S).map((error) => {
    const age = duration(STEP_S * Math.floor(error.age_s / STEP_S));
    const part = error.part === "ledger" ? "jobs, queues and workers" : error.part;
    return { sentence: `What is shown of ${part} is over ${age} old`, command: null };
  });
  return [...causes, ...old];
}

// The command that an error ends with is shown, and copied, as one.
function alarmOf({ sentence, command }) {
  const found = command ? null : /^(.*); ((?:kill|mistudio) .*)$/.exec(sentence);
  return found ? { sentence: found[1], command: found[2] } : { sentence, command };
}

export function alarmList(alarms) {
  return element("ul", {}, ...alarms.map(({ sentence, command }) => element("li", {}, `Alarm: ${sentence}`,
    ...(command ? [" ", element("code", {}, command), " ", copyButton(command)] : []))));
}

function copyButton(command) {
  const made = element("button", { type: "button", "aria-label": `Copy ${command}` }, "Copy");
  made.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      setText(made, "Copied");
    } catch {  // without TLS there is no clipboard: the command is selected instead
      getSelection().selectAllChildren(made.previousElementSibling);
      setText(made, "Selected");
    }
  });
  return made;
}
