// The view Machines: each host of the fleet with its GPUs, what they did lately, and the processes on them.

import { get } from "../api.js";
import { element, setText } from "../dom.js";
import { History, LiveHistory } from "../charts/history.js";
import { HostSection } from "../parts/host_section.js";

const DEVICES_MS = 3000;
const SPANS = [["1h", "1 hour", 5000], ["24h", "24 hours", 60000]];
const MOST_OPEN = 3;

export class MachinesView {
  title = "Machines";

  constructor() {
    this.sections = new Map();
    this.devices = null;
    this.state = null;
    this.note = element("p", { class: "dim" });
    this.list = element("div");
    this.historyNote = element("div");
    this.node = element("div", {}, element("h1", {}, "Machines"), this.spanChoice(), this.note, this.historyNote, this.list);
    this.isClosed = false;
    this.choose("1h");
    this.load();
    this.timer = setInterval(() => this.load(), DEVICES_MS);
  }

  spanChoice() {
    const choices = SPANS.map(([span, words]) => {
      const input = element("input", { type: "radio", name: "span", value: span, checked: span === "1h" });
      input.addEventListener("change", () => this.choose(span));
      return element("label", {}, input, ` ${words}`);
    });
    return element("fieldset", { class: "choice" }, element("legend", {}, "Charts of the last"), ...choices);
  }

  choose(span) {
    this.live?.close();
    const refreshMs = SPANS.find(([name]) => name === span)[2];
    this.live = new LiveHistory(new History("devices", span), refreshMs, () => this.paintCharts());
    this.historyNote.replaceChildren(this.live.node);
  }

  async load() {
    if (document.hidden && this.devices) return;
    let words = "";
    try {
      this.devices = await get("/devices");
    } catch (problem) {
      words = `The GPUs of this machine could not be read: ${problem.message}`;
    }
    if (this.isClosed) return;
    setText(this.note, words);
    this.show(this.state);
  }

  show(state) {
    this.state = state;
    if (!state) return;
    const hosts = { ...state.hosts };
    if (state.host && !hosts[state.host.name]) hosts[state.host.name] = { name: state.host.name, state: "no supervisor" };
    const names = Object.keys(hosts).sort();
    for (const name of names) {
      if (!this.sections.has(name)) this.add(name, names.length <= MOST_OPEN || name === state.host?.name);
      this.sections.get(name).show(hosts[name], state, name === state.host?.name ? this.devices : null);
    }
    for (const [name, section] of this.sections) {
      if (hosts[name]) continue;
      section.close();
      section.node.remove();
      this.sections.delete(name);
    }
    if (!names.length) setText(this.note, state.hosts ? "No host." : "The hosts could not be read yet.");
  }

  add(name, isOpen) {
    const section = new HostSection(name, isOpen);
    this.sections.set(name, section);
    this.list.append(section.node);
    section.showHistory(this.live.history);
  }

  paintCharts() {
    for (const section of this.sections.values()) section.showHistory(this.live.history);
  }

  close() {
    this.isClosed = true;
    clearInterval(this.timer);
    this.live.close();
    for (const section of this.sections.values()) section.close();
  }
}
