// Fields of one form: those to ask for first are open, the others behind a summary.

import { Field } from "./field.js";
import { element } from "../dom.js";

export class FieldGroup {
  constructor(parameters, summary, prefix) {
    this.fields = parameters.map((parameter) => new Field(parameter, `${prefix}-${parameter.name}`));
    const isMain = (field) => field.parameter.main;
    const ordered = this.fields.toSorted((one, other) => other.parameter.required - one.parameter.required);
    const nodes = (chosen) => ordered.filter(chosen).map((field) => field.node);
    const more = nodes((field) => !isMain(field));
    this.more = element("details", { hidden: !more.length }, element("summary", {}, summary), element("div", { class: "fields" }, ...more));
    this.node = element("div", {}, ...nodes(isMain), this.more);
  }

  // Takes the values that there are fields for, and returns the names of the others.
  fill(values) {
    const left = new Map(Object.entries(values));
    for (const field of this.fields) {
      const { name } = field.parameter;
      if (left.has(name)) field.fill(left.get(name));
      left.delete(name);
    }
    this.more.open = this.fields.some((field) => !field.parameter.main && field.value !== undefined);
    return [...left.keys()];
  }

  get values() {
    const given = this.fields.map((field) => [field.parameter.name, field.value]);
    return Object.fromEntries(given.filter(([, value]) => value !== undefined));
  }

  get families() {
    return this.fields.map((field) => field.parameter.artifact).filter(Boolean);
  }

  firstFault() {
    return this.fields.find((field) => field.fault);
  }

  // The field that a refusal names, by its flag or, as of a request's keys, by its first word.
  fieldIn(sentence) {
    const [said] = sentence.split(/\bmistudio /);  // flags of a command are those of the command
    const words = [said.split(" ")[0], ...(said.match(/--[\w-]+/g) ?? [])];
    return words.map((word) => this.named(word)).find(Boolean);
  }

  named(word) {
    return this.fields.find(({ parameter }) => word === parameter.flag || word === parameter.name);
  }

  clearErrors() {
    for (const field of this.fields) field.showError("");
  }
}
