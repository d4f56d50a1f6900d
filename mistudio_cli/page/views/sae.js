// The view of one SAE: what it is, how it was evaluated and made, and the features that extractions found in it.

import { get } from "../api.js";
import { densityFigure } from "../charts/density.js";
import { element, setText } from "../dom.js";
import { jobHref, pairsTable } from "../parts/columns.js";
import { FeatureList } from "../parts/feature_list.js";
import { bytes, countOf, number, time, whole } from "../format.js";

// What most people ask first, before the whole evaluation.
const KEY_MEASURES = ["l0", "fvu", "explained_variance", "dead_fraction", "ce_loss_recovered"];
const FACTS = ["architecture", "trained_as", "model", "hooks", "hook_out", "d_in", "d_out", "d_sae"];

// Whole numbers are shown to the last digit: they are sizes, counts and seeds.
const exact = (value) => Number.isInteger(value) ? String(value) : number(value);

function shown(value) {
  return typeof value === "number" ? exact(value) : typeof value === "string" ? value
    : Array.isArray(value) && value.every((each) => typeof each === "string") ? value.join(", ") : JSON.stringify(value);
}

const isKnown = ([, value]) => value !== null && value !== undefined;
const rowsOf = (object) => Object.entries(object ?? {}).filter(isKnown).map(([name, value]) => [name, shown(value)]);

// Each number that was measured, with its standard error where there is one.
function measures(result) {
  const errors = result.standard_errors ?? {};
  return Object.entries(result).filter(([name, value]) => typeof value === "number" && !FACTS.includes(name))
    .map(([name, value]) => [name, typeof errors[name] === "number" ? `${number(value)} ± ${number(errors[name])}` : exact(value)]);
}

function jobLink(words, id) {
  return id ? [words, element("a", { href: jobHref(id) }, id)] : [];
}

export class SaeView {
  constructor(name) {
    this.title = name;
    this.name = name;
    this.summary = element("p", { role: "status" });
    this.lineage = element("p");
    this.density = element("div");
    this.facts = pairsTable("SAE");
    this.evaluation = pairsTable("Evaluation");
    this.params = pairsTable("Parameters");
    this.config = pairsTable("Configuration (cfg.json)");
    this.files = pairsTable("Files");
    this.about = element("p", { class: "dim" });
    this.choice = element("select", { name: "extraction" });
    this.choice.addEventListener("change", () => this.choose());
    this.interpretable = element("p");
    this.features = new FeatureList(name);
    this.dashboard = element("div", { hidden: true },
      element("p", {}, element("label", {}, "Extraction ", this.choice)), this.about, this.interpretable, this.features.node);
    this.noFeatures = element("p", { class: "dim" });
    this.node = element("div", {}, element("h1", {}, name), this.summary, this.lineage, element("div", { class: "sae-facts" }, this.facts.node, this.density),
      element("h2", {}, "Features"), this.noFeatures, this.dashboard, this.evaluation.node, this.params.node, this.config.node, this.files.node);
    this.load();
  }

  async load() {
    setText(this.summary, "Loading");
    try {
      const sae = await get(`/saes/${encodeURIComponent(this.name)}`);
      if (!this.isClosed) this.paint(sae);
    } catch (problem) {
      setText(this.summary, problem.message);
    }
  }

  paint(sae) {
    setText(this.summary, [sae.kind, sae.created_at && `made ${time(sae.created_at)}`, sae.bytes !== null && bytes(sae.bytes)].filter(Boolean).join(" · "));
    const made = Object.entries(sae.made_from).map(([role, name]) => `${role}: ${shown(name)}`).join(", ");
    this.lineage.replaceChildren(...jobLink("Made by job ", sae.job), ...(made ? [` from ${made}`] : []));
    const facts = FACTS.map((name) => [name, sae[name]]).filter(isKnown).map(([name, value]) => [name, shown(value)]);
    const evaluated = measures(sae.result);
    this.facts.show([...facts, ...evaluated.filter(([name]) => KEY_MEASURES.includes(name))], "Its files do not say what it is.");
    this.evaluation.show(evaluated, "Nothing was measured of it.");
    const figure = densityFigure(sae.result.density_histogram);
    this.density.replaceChildren(...(figure ? [figure] : []));
    this.params.show(rowsOf(sae.params), "No parameters.");
    const { metadata, ...config } = sae.config;
    this.config.show([...rowsOf(config), ...rowsOf(metadata).map(([name, value]) => [`metadata.${name}`, value])], "No configuration.");
    this.files.show(Object.entries(sae.files).map(([name, size]) => [name, bytes(size)]), "No files.");
    this.paintExtractions(sae.extractions);
  }

  paintExtractions(extractions) {
    this.extractions = new Map(extractions.map((each) => [each.name, each]));
    this.dashboard.hidden = !extractions.length;
    setText(this.noFeatures, extractions.length ? "" : `No extraction has finished. Run: mistudio submit extract --sae ${this.name}`);
    this.choice.replaceChildren(...extractions.map((each) => element("option", { value: each.name }, `${each.name}, ${time(each.created_at)}`)));
    if (extractions.length) this.choose();
  }

  choose() {
    const chosen = this.extractions.get(this.choice.value);
    const facts = `${whole(chosen.fired)} of ${countOf(chosen.features, "feature")} fired on ${countOf(chosen.tokens, "token")}; ${whole(chosen.live)} are live.`;
    this.about.replaceChildren(facts, ...jobLink(" Made by job ", chosen.job));
    const buttons = chosen.interpretable.flatMap((id) => [" ", element("button", { type: "button", onclick: () => this.features.search(String(id)) }, `Feature ${id}`)]);
    this.interpretable.replaceChildren(...(buttons.length ? ["Most interpretable:", ...buttons] : []));
    this.features.choose(chosen.name);
  }

  show() {}

  close() {
    this.isClosed = true;
    this.features.close();
  }
}
