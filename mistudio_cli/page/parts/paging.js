// Going through a list a page at a time, by the cursor that each answer has for the next one.

import { element, setText } from "../dom.js";

export class Paging {
  // `load` reads the page at `cursor`, which is null for the first.
  constructor(load, backName, nextName) {
    this.load = load;
    this.before = [];
    this.cursor = null;
    this.next = null;
    this.backButton = element("button", { type: "button", onclick: () => this.turn(false) }, backName);
    this.nextButton = element("button", { type: "button", onclick: () => this.turn(true) }, nextName);
    this.count = element("span", { class: "dim", role: "status" });
    this.node = element("p", {}, this.backButton, " ", this.nextButton, " ", this.count);
  }

  restart() {
    this.before = [];
    this.cursor = null;
    this.load();
  }

  turn(isForward) {
    if (isForward) {
      this.before.push(this.cursor);
      this.cursor = this.next;
    } else this.cursor = this.before.pop() ?? null;
    this.load();
  }

  // What the page that is shown has, in words, and the cursor after it.
  show(words, next) {
    this.next = next;
    this.backButton.disabled = !this.before.length;
    this.nextButton.disabled = !next;
    setText(this.count, `${words}, page ${this.before.length + 1}`);
  }
}
