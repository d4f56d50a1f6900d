// The words of a chart: the value of each line under the cursor, what is not shown and why, and a summary.

import { element, setText, svg } from "../dom.js";
import { number, plain } from "../format.js";

// A line's color and dashes by its place; no two of the first 64 share both.
const DASHES = ["", "8 4", "2 3", "9 3 2 3", "15 4", "4 4", "15 3 2 3 2 3", "1 5"];

export const colorOf = (place) => `--series-${(place % DASHES.length) + 1}`;

export function dashOf(place) {
  const dash = DASHES[(place + Math.floor(place / DASHES.length)) % DASHES.length];
  return dash ? dash.split(" ").map(Number) : [];
}

function swatch(place) {
  const line = svg("line", { x1: 0, x2: 32, y1: 4, y2: 4, class: `line-${(place % DASHES.length) + 1}`, "stroke-dasharray": dashOf(place).join(" ") });
  return svg("svg", { class: "swatch", viewBox: "0 0 32 8", "aria-hidden": "true" }, line);
}

export class Readout {
  constructor(name, unit, x) {
    this.name = name;
    this.unit = unit;
    this.position = x === "time" ? (at) => new Date(at * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "medium" }) : String;
    this.head = element("span");
    this.lines = element("ul", { class: "lines" });
    this.note = element("span", { class: "dim" });
    this.node = element("figcaption", { "aria-live": "off" }, this.head, " ", this.note, this.lines);
    this.places = "";
  }

  // `entries`: for each line its name, place, value and, of a smoothed one, the raw value. `at`: where; null: nowhere.
  show(entries, at, notes) {
    const where = at === null ? "" : ` at ${this.position(at)}`;
    if (entries.length === 1) setText(this.head, `${this.name}: ${this.value(entries[0])}${where}`);
    else setText(this.head, `${this.name}${where}`);
    setText(this.note, notes.length ? `(${notes.join("; ")})` : "");
    this.list(entries.length === 1 ? [] : entries);
  }

  list(entries) {
    const places = JSON.stringify(entries.map(({ name, place }) => [name, place]));
    if (places !== this.places) {
      this.places = places;
      this.lines.replaceChildren(...entries.map(({ place }) => element("li", {}, swatch(place), element("span"))));
    }
    entries.forEach((entry, index) => setText(this.lines.children[index].lastChild, ` ${entry.name}: ${this.value(entry)}`));
  }

  value({ value, raw }) {
    const shown = plain(number(value), this.unit && ` ${this.unit}`);
    return raw === undefined ? shown : `${shown}, raw ${number(raw)}`;
  }

  // From where to where each line goes, for who does not see it.
  summary(entries) {
    const parts = entries.map(({ name, from, to }) => {
      const line = entries.length === 1 ? this.name : `${this.name} of ${name}`;
      if (!from) return `${line}: no finite value`;
      return `${line} from ${number(from[1])} at ${this.position(from[0])} to ${number(to[1])} at ${this.position(to[0])}`;
    });
    return parts.join("; ") || `${this.name}: no finite value`;
  }
}
