// The page: chooses the view by the fragment, and keeps alarms, title and the sign of staleness.

import { forgetToken, getHealth, takeToken, token } from "./api.js";
import { say } from "./actions.js";
import { alarmsOf } from "./alarms.js";
import { element, setText } from "./dom.js";
import { JobView } from "./job.js";
import { JobsView } from "./jobs.js";
import { Live } from "./live.js";
import { NowView } from "./now.js";

const HEALTH_MS = 5000;

const main = document.getElementById("main");
const alarmsNode = document.getElementById("alarms");
let view = null;
let health = null;
let alarms = [];
let hadWrongToken = false;

function viewFor(fragment) {
  const job = /^#\/jobs\/(.+)$/.exec(fragment);
  if (job) return new JobView(decoded(job[1]));
  return fragment === "#/jobs" ? new JobsView() : new NowView();
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function route() {
  if (location.hash.startsWith("#token=")) {
    takeToken();
    hadWrongToken = false;
    showAccess();
  }
  const isFirst = view === null;
  view?.close();
  view = viewFor(location.hash);
  main.replaceChildren(view.node);
  if (!isFirst) {
    main.focus();
    say("");
  }
  const current = location.hash.startsWith("#/jobs") ? "#/jobs" : "#/now";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.show(live.state);
  showTitle();
}

function showAlarms() {
  const found = alarmsOf(live.state, health);
  if (JSON.stringify(found) === JSON.stringify(alarms)) return;
  alarms = found;  // what did not change is not announced again
  alarmsNode.replaceChildren(...(found.length
    ? [element("ul", {}, ...found.map((sentence) => element("li", {}, `Alarm: ${sentence}`)))] : []));
}

function showTitle() {
  const stale = live.staleFor();
  const count = alarms.length === 1 ? "1 alarm" : `${alarms.length} alarms`;
  const wanted = [stale === null ? null : `stale ${stale} s`, count, view.title, "mistudio"].filter(Boolean).join(" – ");
  if (document.title !== wanted) document.title = wanted;
  const connection = document.getElementById("connection");
  const words = { live: "live", polling: "polling", connecting: "connecting" };
  connection.classList.toggle("stale", stale !== null);
  // Seconds are in the title: here they would be announced each second.
  setText(connection, stale === null ? words[live.way] : "stale: nothing received");
}

function showAccess() {
  setText(document.getElementById("access"), token() ? "may change" : "reads only");
  document.body.classList.toggle("reads-only", !token());
}

function refused(problem) {
  // An answer to what was asked before the token came says nothing of it.
  if (problem.status !== 401 || problem.bearer !== token()) return;
  hadWrongToken ||= problem.bearer !== null;
  say(hadWrongToken ? "The token is not this server's. Open this page with #token=TOKEN at the end of its address."
    : "This server needs a token. Open this page with #token=TOKEN at the end of its address.");
  forgetToken();
  showAccess();
}

async function checkHealth() {
  if (document.hidden) return;
  try {
    health = await getHealth();
  } catch { /* the connection shows that nothing comes */ }
  showAlarms();
}

const live = new Live((state) => {
  view.show(state);
  showAlarms();
  showTitle();
}, refused);

takeToken();
showAccess();
route();
addEventListener("hashchange", route);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
live.start();
checkHealth();
setInterval(checkHealth, HEALTH_MS);
setInterval(showTitle, 1000);
document.addEventListener("visibilitychange", checkHealth);
