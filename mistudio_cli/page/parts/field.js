// A field of a form for one parameter, as the server declares it. Its value is undefined where the default is meant.

import { element, setText } from "../dom.js";

// A number as it is typed on a command line: 32, 2e-4, 10k, 1.5M.
const NUMBER = /^([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+))?([kKMBGT]?)$/;
const POWERS = { "": 0, k: 3, K: 3, M: 6, B: 9, G: 9, T: 12 };

function readNumber(text) {
  const [, digits, exponent = "0", suffix] = text.match(NUMBER);
  const value = Number(`${digits}e${Number(exponent) + POWERS[suffix]}`);
  if (!Number.isFinite(value)) throw new RangeError(text);  // JSON has no word for it
  return value;
}

const READERS = {
  string: (text) => text,
  integer: readNumber,
  number: readNumber,
  boolean: (text) => text === "true",
  array: (text) => text.split(",").map((word) => word.trim()).filter(Boolean),
  object: JSON.parse,
};
const NEEDED = { integer: "a number", number: "a number", object: "JSON" };

export const listId = (family) => `names-${family}`;

const isBlank = (value) => value === null || value === undefined || value === "";

function written(value) {
  if (isBlank(value)) return "";
  if (Array.isArray(value)) return value.join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function choiceInput({ choices, required, nullable }, attributes) {
  const words = [...(required || nullable ? [""] : []), ...(choices ?? ["true", "false"])];
  return element("select", attributes, ...words.map((word) => element("option", { value: word }, word || (required ? "choose" : "default"))));
}

function typedInput({ artifact, default: usual }, attributes) {
  const placeholder = written(usual) || null;
  return element("input", { ...attributes, placeholder, autocomplete: "off", spellcheck: "false", list: artifact && listId(artifact) });
}

function inputFor(parameter, attributes) {
  if (parameter.type === "boolean" && !parameter.nullable) return element("input", { ...attributes, type: "checkbox" });
  return parameter.choices || parameter.type === "boolean" ? choiceInput(parameter, attributes) : typedInput(parameter, attributes);
}

export class Field {
  constructor(parameter, id) {
    this.parameter = parameter;
    this.input = inputFor(parameter, { id, "aria-describedby": `${id}-help ${id}-error`, "aria-required": parameter.required && "true" });
    this.error = element("p", { id: `${id}-error`, class: "bad" });
    const label = parameter.flag.replace(/^--/, "") + (parameter.required ? " (required)" : "");
    this.node = element("div", { class: "field" }, element("label", { for: id }, label), this.input,
      element("p", { id: `${id}-help`, class: "dim" }, parameter.help), this.error);
    this.blank = undefined;
    this.write(parameter.default);
  }

  // Choices show their default as chosen; what is typed shows it as the placeholder.
  write(value) {
    if (this.input.type === "checkbox") this.input.checked = value === true;
    else if (this.input.tagName === "SELECT") this.input.value = written(value);
  }

  // Takes a job's value. One that is empty where the default is not stays empty for as long as nothing is typed.
  fill(value) {
    this.write(value);
    if (this.input.tagName !== "INPUT" || this.input.type === "checkbox" || value === this.parameter.default) return;
    this.input.value = written(value);
    if (!isBlank(value)) return;
    this.blank = value;
    this.input.placeholder = "none";
  }

  get value() {
    const value = this.input.type === "checkbox" ? this.input.checked : this.typed();
    return value === this.parameter.default ? undefined : value;
  }

  typed() {
    const text = this.input.value.trim();
    return text === "" ? this.blank : READERS[this.parameter.type](text);
  }

  // What makes the value unreadable, before any server sees it; null where nothing does.
  get fault() {
    try {
      this.typed();
      return null;
    } catch {
      return `${this.parameter.flag} must be ${NEEDED[this.parameter.type]}.`;
    }
  }

  showError(sentence) {
    setText(this.error, sentence);
    if (!sentence) return this.input.removeAttribute("aria-invalid");
    this.input.setAttribute("aria-invalid", "true");
    const details = this.node.closest("details");
    if (details) details.open = true;
    this.input.focus();
  }
}
