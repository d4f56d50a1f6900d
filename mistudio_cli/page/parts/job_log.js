// The end of a job's log: follows what is added, and marks what is searched for.

import { element, setText } from "../dom.js";

export const LINES = 500;
const LONGEST_LINE = 2000;
const MOST_MARKS_PER_LINE = 50;
const NEAR_END_PX = 4;

export class LogTail {
  constructor() {
    this.follow = element("input", { type: "checkbox" });
    this.follow.checked = true;
    this.search = element("input", { type: "search", size: 20, autocomplete: "off", "data-search": true });
    this.count = element("span", { role: "status" });
    this.previous = element("button", { type: "button", onclick: () => this.go(-1) }, "Previous");
    this.next = element("button", { type: "button", onclick: () => this.go(1) }, "Next");
    this.log = element("div", { class: "log", tabindex: 0, role: "region", "aria-label": "End of the log" });
    this.note = element("p", { class: "dim" });
    this.node = element("div", {}, element("p", { class: "controls" }, element("label", {}, this.follow, " Follow"),
      element("label", {}, "Search the log ", this.search), this.previous, this.next, this.count), this.log, this.note);
    this.marks = [];
    this.current = -1;
    this.search.addEventListener("input", () => this.find());
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.go(event.shiftKey ? -1 : 1);
    });
    this.follow.addEventListener("change", () => this.scrollToEnd());
    this.log.addEventListener("scroll", () => { this.follow.checked = this.isAtEnd(); });
    this.showCount();
  }

  // `lines` as the REST interface has them; `missing`: sentences on what is not there.
  add(lines, missing) {
    setText(this.note, missing.join(" "));
    if (!lines.length) return;
    this.log.append(...lines.slice(-LINES).map((line) => this.line(line)));
    while (this.log.childElementCount > LINES) this.log.firstChild.remove();
    this.scrollToEnd();
    this.collect();
  }

  line({ time, level, message }) {
    const text = message ?? "";
    const cut = text.length > LONGEST_LINE ? `${text.slice(0, LONGEST_LINE)} … ${text.length - LONGEST_LINE} more characters` : text;
    const row = element("div", {}, time ? `${time} ` : "", ...(level ? [element("span", { class: `level ${levelClass(level)}` }, level), " "] : []), element("span"));
    row.lastChild.append(...this.marked(cut));
    return row;
  }

  // The text as text nodes, with what is searched for in <mark>.
  marked(text) {
    const wanted = this.pattern();
    if (!wanted) return [text];
    const parts = [];
    let end = 0;
    for (const match of text.matchAll(wanted)) {
      if (parts.length >= 2 * MOST_MARKS_PER_LINE) {
        this.isCut = true;
        break;
      }
      parts.push(text.slice(end, match.index), element("mark", {}, match[0]));
      end = match.index + match[0].length;
    }
    return [...parts, text.slice(end)];
  }

  pattern() {
    const wanted = this.search.value;
    return wanted ? new RegExp(wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi") : null;
  }

  find() {
    this.isCut = false;
    for (const row of this.log.children) row.lastChild.replaceChildren(...this.marked(row.lastChild.textContent));
    this.current = -1;
    this.collect();
    if (this.marks.length) this.go(-1);  // the newest
  }

  collect() {
    const before = this.marks[this.current];
    this.marks = [...this.log.querySelectorAll("mark")];
    this.current = this.marks.indexOf(before);
    this.showCount();
  }

  go(step) {
    if (!this.marks.length) return;
    this.marks[this.current]?.removeAttribute("aria-current");
    const from = this.current < 0 && step < 0 ? 0 : this.current;
    this.current = (from + step + this.marks.length) % this.marks.length;
    const mark = this.marks[this.current];
    mark.setAttribute("aria-current", "true");
    mark.scrollIntoView({ block: "nearest" });
    this.follow.checked = this.isAtEnd();
    this.showCount();
  }

  showCount() {
    const all = this.marks.length;
    this.previous.disabled = this.next.disabled = !all;
    if (!this.search.value) setText(this.count, "");
    else if (!all) setText(this.count, "no match in these lines");
    else setText(this.count, `${this.current < 0 ? "" : `${this.current + 1} of `}${all === 1 ? "1 match" : `${this.isCut ? "at least " : ""}${all} matches`}`);
  }

  isAtEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight <= NEAR_END_PX;
  }

  scrollToEnd() {
    if (this.follow.checked) this.log.scrollTop = this.log.scrollHeight;
  }
}

function levelClass(level) {
  return ["ERROR", "CRITICAL"].includes(level) ? "bad" : level === "WARNING" ? "warned" : "";
}
