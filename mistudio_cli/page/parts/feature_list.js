// The features that an extraction found, with their strongest examples: searched, and more of them on demand.

import { get } from "../api.js";
import { element, setText } from "../dom.js";
import { number, plain } from "../format.js";

const LIMIT = 20;
const LEVELS = 5;
//  A search goes on by itself through this many parts of a long file that hold nothing.
const MOST_PARTS = 50;

function visible(token) {
  return token.replaceAll("\n", "↵").replaceAll("\r", "␍").replaceAll("\t", "⇥");
}

// Strength of a token's activation as background, underline and weight, from 0 (none) to LEVELS.
function level(value, strongest) {
  return value > 0 && strongest > 0 ? Math.min(LEVELS, Math.max(1, Math.ceil((LEVELS * value) / strongest))) : 0;
}

function exampleNode(example, strongest) {
  const text = element("span", {}, example.at_row_start ? "" : "… ");
  example.tokens.forEach((token, place) => {
    const strength = level(example.activations[place], strongest);
    const words = visible(token);
    text.append(strength ? element("mark", { class: `act-${strength}`, title: number(example.activations[place]) }, words) : words);
  });
  return element("div", { class: "example" }, element("span", {}, number(example.activations[example.peak])), text);
}

function percent(share) {
  return share === null ? "–" : `${number(100 * share)} %`;
}

function featureNode(feature) {
  const strongest = feature.max_activation ?? 0;
  const tokens = feature.top_tokens.flatMap((token) => [" ", element("code", {}, visible(token))]);
  const facts = `active on ${percent(feature.density)} of tokens, in ${plain(feature.contexts)} contexts, at most ${number(feature.max_activation)}`;
  const more = feature.more_examples ? [element("p", { class: "dim" }, `${feature.more_examples} more examples are in the store.`)] : [];
  return element("article", {}, element("h3", {}, `Feature ${feature.id}`), element("p", { class: "dim" }, facts),
    element("p", {}, "Top tokens:", ...tokens), ...feature.examples.map((example) => exampleNode(example, strongest)), ...more);
}

export class FeatureList {
  constructor(sae) {
    this.path = `/saes/${encodeURIComponent(sae)}/features`;
    this.extraction = null;
    this.asked = 0;
    this.input = element("input", { type: "search", name: "search", autocomplete: "off", size: 24 });
    this.form = element("form", { "aria-label": "Search features" },
      element("label", {}, "Token or feature number", this.input), element("button", {}, "Search"));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.restart();
    });
    this.count = element("p", { class: "dim", role: "status" });
    this.list = element("div", { class: "features" });
    this.more = element("button", { type: "button", hidden: true, onclick: () => this.load() }, "More features");
    this.node = element("div", {}, this.form, this.count, this.list, element("p", {}, this.more));
  }

  // Shows the features of another extraction of the SAE, or those that a search finds.
  choose(extraction) {
    this.extraction = extraction;
    this.restart();
  }

  search(words) {
    this.input.value = words;
    this.restart();
  }

  restart() {
    this.words = this.input.value;
    this.after = 0;
    this.shown = 0;
    this.list.replaceChildren();
    this.load();
  }

  async load() {
    const asked = ++this.asked;
    this.more.hidden = true;
    let found = 0;
    for (let part = 0; part < MOST_PARTS && found < LIMIT && this.after !== null; part += 1) {
      const words = new URLSearchParams({ extraction: this.extraction, search: this.words, after: this.after, limit: LIMIT - found });
      let page;
      try {
        page = await get(`${this.path}?${words}`);
      } catch (problem) {
        if (asked === this.asked) setText(this.count, problem.message);
        this.more.hidden = asked !== this.asked;
        return;
      }
      if (asked !== this.asked) return;  // another search began
      this.list.append(...page.features.map(featureNode));
      found += page.features.length;
      this.shown += page.features.length;
      this.after = page.next;
      this.report(page);
    }
    this.more.hidden = this.after === null;
  }

  report(page) {
    const parts = [`${this.shown} ${this.shown === 1 ? "feature" : "features"} shown`];
    if (page.next === null) parts.push("no more");
    else parts.push(`${Math.floor(100 * page.read_fraction)} % of the list read`);
    if (page.unreadable) parts.push(`${page.unreadable} could not be read`);
    setText(this.count, parts.join(", "));
  }

  close() {
    this.asked += 1;
  }
}
