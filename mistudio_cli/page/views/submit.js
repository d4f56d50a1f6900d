// The view Submit: a form for any kind of job, made of the server's declaration; of an earlier job where it is given one.

import { get, idempotencyKey, post, token } from "../api.js";
import { say } from "../parts/actions.js";
import { jobHref } from "../parts/columns.js";
import { element, setText } from "../dom.js";
import { listId } from "../parts/field.js";
import { FieldGroup } from "../parts/field_group.js";

const GET_TOKEN = "Submitting needs a token. Run mistudio serve --new-token, and open the link that it prints.";
// A dataset that is given as tokens is tokenized first.
const FAMILIES = { tokens: ["tokens", "datasets"] };
const KEPT = ["priority", "tags", "gpu"];

export class SubmitView {
  title = "Submit";

  constructor(from = null) {
    this.from = from;
    this.groups = new Map();
    this.lists = new Map();
    this.kind = element("select", { id: "kind", "aria-describedby": "kind-summary", "data-search": true });
    this.kind.addEventListener("change", () => this.choose());
    this.origin = element("p");
    this.summary = element("p", { id: "kind-summary", class: "dim" });
    this.params = element("div");
    this.optionsNode = element("div");
    this.problem = element("p", { class: "bad", role: "alert" });
    this.button = element("button", { class: "changes" }, "Submit");
    this.form = this.makeForm();
    this.form.hidden = true;
    this.node = element("div", {}, element("h1", {}, "Submit a job"), element("p", { class: "reading" }, GET_TOKEN), this.origin, this.form);
    this.load();
  }

  makeForm() {
    const chooser = element("div", { class: "field" }, element("label", { for: "kind" }, "Kind"), this.kind, this.summary);
    const form = element("form", { class: "submission", novalidate: true, "aria-label": "Submit a job" },
      chooser, this.params, this.optionsNode, this.problem, this.button);
    form.addEventListener("input", () => { this.key = null; });  // another request than the one before
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    return form;
  }

  async load() {
    try {
      this.offer(await get("/kinds"));
      if (this.from) this.fill(await get(`/jobs/${encodeURIComponent(this.from)}`));
    } catch (problem) {
      if (!this.isClosed) say(problem.message);
    }
  }

  offer({ kinds, options }) {
    this.kinds = new Map(kinds.map((kind) => [kind.name, kind]));
    this.kind.append(...["", ...this.kinds.keys()].map((name) => element("option", { value: name }, name || "Choose a kind")));
    this.options = new FieldGroup(options, "Job options: name, priority, tags, GPUs", "option");
    this.optionsNode.append(this.options.node);
    this.form.hidden = false;
    this.choose();
  }

  // What was typed for a kind is kept while another one is looked at.
  choose() {
    const kind = this.kinds.get(this.kind.value);
    this.optionsNode.hidden = this.button.hidden = !kind;
    setText(this.summary, kind ? `${kind.summary}. Queue ${kind.queue}.` : "");
    setText(this.problem, "");
    if (kind && !this.groups.has(kind.name)) this.groups.set(kind.name, new FieldGroup(kind.params, "More options", "param"));
    this.group = kind ? this.groups.get(kind.name) : null;
    this.params.replaceChildren(...(kind ? [this.group.node] : []));
    this.group?.families.forEach((family) => this.suggest(family));
  }

  // The names in the store that a field may have; without them it is typed.
  async suggest(family) {
    if (this.lists.has(family)) return;
    const list = element("datalist", { id: listId(family) });
    this.lists.set(family, list);
    this.form.append(list);
    try {
      const found = await Promise.all((FAMILIES[family] ?? [family]).map((each) => get(`/artifacts?family=${each}`)));
      const names = new Set(found.flatMap(({ artifacts }) => artifacts.map((artifact) => artifact.name)));
      list.replaceChildren(...[...names].map((name) => element("option", { value: name })));
    } catch {
      this.lists.delete(family);
      list.remove();
    }
  }

  fill(job) {
    if (!this.kinds.has(job.kind)) return say(`This server has no kind ${job.kind}.`);
    this.kind.value = job.kind;
    this.choose();
    const unknown = this.group.fill(job.params ?? {});
    this.options.fill(Object.fromEntries(KEPT.map((name) => [name, job[name]])));
    this.origin.replaceChildren("Filled in from job ", element("a", { href: jobHref(job.id) }, job.name || job.id), ".");
    if (unknown.length) this.origin.append(` Left out, because this server's ${job.kind} has no such parameters: ${unknown.join(", ")}.`);
  }

  async submit() {
    if (this.isSending || !token() || !this.group) return;
    const groups = [this.group, this.options];
    groups.forEach((group) => group.clearErrors());
    setText(this.problem, "");
    const wrong = groups.map((group) => group.firstFault()).find(Boolean);
    if (wrong) return wrong.showError(wrong.fault);
    await this.send({ ...this.options.values, kind: this.kind.value, params: this.group.values });
  }

  // Nothing that was typed is lost by a refusal; the same request again has the same key, so that it makes one job.
  async send(body) {
    this.isSending = true;
    this.key ??= idempotencyKey();
    try {
      const made = await post("/jobs", body, this.key);
      if (!this.isClosed) location.hash = jobHref(made.id);
    } catch (problem) {
      this.refuse(problem.message);
    } finally {
      this.isSending = false;
    }
  }

  refuse(sentence) {
    const field = this.group.fieldIn(sentence) ?? this.options.fieldIn(sentence);
    if (field) field.showError(sentence);
    else setText(this.problem, sentence);
  }

  show() {}

  close() {
    this.isClosed = true;
  }
}
