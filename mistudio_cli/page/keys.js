// The keyboard: single keys that move between views and rows, and the dialog that lists them.

import { element } from "./dom.js";

const STORED = "mistudio-keys";
const VIEWS = { n: "#/now", j: "#/jobs", u: "#/submit", s: "#/saes", m: "#/machines" };
const LISTED = [
  ["/", "Go to the filter or search"],
  ["j, k", "Next and previous row"],
  ["Enter", "Open the row's job"],
  ["x", "Select the row's job"],
  ["Esc", "Back to the list"],
  ["?", "This list"],
];
const TYPED_INTO = "input, select, textarea, [contenteditable]";

const dialog = document.getElementById("keys");
const isOn = document.getElementById("keys-on");
let afterG = false;

// The link of the header to a view; null where there is no such view.
const linkTo = (view) => document.querySelector(`nav a[href="${view}"]`);

function show() {
  const views = Object.entries(VIEWS).filter(([, view]) => linkTo(view)).map(([key, view]) => [`g ${key}`, `Go to ${linkTo(view).textContent}`]);
  document.getElementById("keys-list").replaceChildren(...[...views, ...LISTED].map(([key, does]) =>
    element("tr", {}, element("th", { scope: "row" }, element("kbd", {}, key)), element("td", {}, does))));
  dialog.showModal();
}

function rows() {
  return [...document.querySelectorAll("main tbody tr")].filter((row) => row.checkVisibility());
}

function row() {
  return document.activeElement?.closest("main tbody tr");
}

function move(step) {
  const all = rows();
  const to = all[Math.max(0, Math.min(all.length - 1, all.indexOf(row()) + step))];
  if (!to) return;
  to.tabIndex = -1;
  to.focus();
}

function open() {
  if (document.activeElement !== row()) return false;  // a link or a button does what it does
  row().querySelector("a[href]")?.click();
  return true;
}

function back() {
  const [, view] = /^(#\/\w+)\/./.exec(location.hash) ?? [];
  if (view && view !== VIEWS.u) location.hash = linkTo(view) ? view : VIEWS.j;
}

const KEYS = {
  "/": () => document.querySelector("main [data-search]")?.focus(),
  j: () => move(1),
  k: () => move(-1),
  x: () => row()?.querySelector("td.select input")?.click(),
  Enter: open,
  Escape: back,
  "?": show,
};

function press(event) {
  const isBusy = event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]");
  if (isBusy || !isOn.checked || event.target.closest?.(TYPED_INTO)) return;
  const view = afterG && VIEWS[event.key];
  afterG = event.key === "g";
  if (view) linkTo(view)?.click();
  else if (!Object.hasOwn(KEYS, event.key) || KEYS[event.key]() === false) return;
  event.preventDefault();
}

export function startKeys() {
  try { isOn.checked = localStorage.getItem(STORED) !== "off"; } catch { /* without storage they are on */ }
  isOn.addEventListener("change", () => {
    try { localStorage.setItem(STORED, isOn.checked ? "on" : "off"); } catch { /* it is not kept */ }
  });
  addEventListener("keydown", press);
  document.getElementById("show-keys").addEventListener("click", show);
  document.getElementById("keys-close").addEventListener("click", () => dialog.close());
}
