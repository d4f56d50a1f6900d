// The page: chooses the view by the fragment, and keeps alarms, title and the sign of staleness.

import { forgetToken, get, getHealth, takeToken, token } from "./api.js";
import { say } from "./parts/actions.js";
import { alarmList, alarmsOf } from "./parts/alarms.js";
import { CompareView } from "./views/compare.js";
import { setText } from "./dom.js";
import { countOf } from "./format.js";
import { JobView } from "./views/job.js";
import { JobsView } from "./views/jobs.js";
import { startKeys } from "./keys.js";
import { Live } from "./live.js";
import { MachinesView } from "./views/machines.js";
import { NowView } from "./views/now.js";
import { SaeView } from "./views/sae.js";
import { SaesView } from "./views/saes.js";
import { SubmitView } from "./views/submit.js";

const HEALTH_MS = 5000;
const NEW_TOKEN = "Run mistudio serve --new-token, and open the link that it prints.";

// Each view: the addresses it has, the link of the header it belongs to, and what makes it. Now is all that fits none.
const ROUTES = [
  { pattern: /^#\/jobs\/(.+)$/, nav: "#/jobs", make: (id) => new JobView(id) },
  { pattern: /^#\/jobs$/, nav: "#/jobs", make: () => new JobsView() },
  { pattern: /^#\/compare\/(.*)$/, nav: "#/jobs", make: (ids) => new CompareView(ids) },
  { pattern: /^#\/saes\/(.+)$/, nav: "#/saes", make: (name) => new SaeView(name) },
  { pattern: /^#\/saes$/, nav: "#/saes", make: () => new SaesView() },
  { pattern: /^#\/submit\/(.+)$/, nav: "#/submit", make: (job) => new SubmitView(job) },
  { pattern: /^#\/submit$/, nav: "#/submit", make: () => new SubmitView() },
  { pattern: /^#\/machines$/, nav: "#/machines", make: () => new MachinesView() },
];
const NOW = { pattern: /^/, nav: "#/now", make: () => new NowView() };

function routeOf(fragment) {
  return ROUTES.find((each) => each.pattern.test(fragment)) ?? NOW;
}

const main = document.getElementById("main");
const alarmsNode = document.getElementById("alarms");
let view = null;
let health = null;
let alarms = [];
let hadWrongToken = false;

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function route() {
  if (location.hash.startsWith("#token=")) {
    takeToken();
    hadWrongToken = false;
    showAccess();
    checkToken();
  }
  const isFirst = view === null;
  view?.close();
  const chosen = routeOf(location.hash);
  view = chosen.make(...chosen.pattern.exec(location.hash).slice(1).map(decoded));
  main.replaceChildren(view.node);
  if (!isFirst) {
    main.focus();
    say("");
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === chosen.nav) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.show(live.state);
  showTitle();
}

function showAlarms() {
  const found = alarmsOf(live.state, health);
  if (JSON.stringify(found) === JSON.stringify(alarms)) return;
  alarms = found;  // what did not change is not announced again
  alarmsNode.replaceChildren(...(found.length ? [alarmList(found)] : []));
}

function showTitle() {
  const stale = live.staleFor();
  const count = health || alarms.length ? countOf(alarms.length, "alarm") : null;  // none is not known before health is
  const wanted = [stale === null ? null : `stale ${stale} s`, count, view.title, "mistudio"].filter(Boolean).join(" – ");
  if (document.title !== wanted) document.title = wanted;
  const connection = document.getElementById("connection");
  const words = { live: "live", polling: "polling", connecting: "connecting" };
  connection.classList.toggle("stale", stale !== null);
  // Seconds are in the title: here they would be announced each second.
  setText(connection, stale === null ? words[live.way] : "stale: nothing received");
}

function showAccess() {
  setText(document.getElementById("access"), token() ? "with token" : "read-only");
  document.body.classList.toggle("reads-only", !token());
}

function refused(problem) {
  // An answer to what was asked before the token came says nothing of it.
  if (problem.status === 401 && problem.bearer === token()) dropToken(problem.bearer);
}

function dropToken(bearer) {
  hadWrongToken ||= bearer !== null;
  say(`${hadWrongToken ? "The token is not this server's" : "This server needs a token"}. ${NEW_TOKEN}`);
  forgetToken();
  showAccess();
}

// One that has expired would be noticed only when something is changed with it: on this machine reading needs none.
async function checkToken() {
  const bearer = token();
  if (!bearer) return;
  try {
    const { can_change: canChange } = await get("/access");
    if (!canChange && bearer === token()) dropToken(bearer);
  } catch (problem) {
    refused(problem);
  }
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
checkToken();
addEventListener("hashchange", route);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
startKeys();
live.start();
checkHealth();
setInterval(checkHealth, HEALTH_MS);
setInterval(showTitle, 1000);
document.addEventListener("visibilitychange", checkHealth);
