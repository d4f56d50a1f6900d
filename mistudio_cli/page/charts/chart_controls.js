// One switch of the scale and one smoothing for all charts of a view, kept in this tab.

import { element, setText } from "../dom.js";

const KEY = "mistudio-charts";
const MOST = 0.99;

function kept() {
  try {
    const { log, smoothing } = JSON.parse(sessionStorage.getItem(KEY)) ?? {};
    return { log: log === true, smoothing: smoothing >= 0 && smoothing <= MOST ? smoothing : 0 };
  } catch {
    return { log: false, smoothing: 0 };  // without storage each view begins so
  }
}

export class ChartControls {
  // `onChange` gets the style that `Chart.setStyle` takes.
  constructor(onChange) {
    this.style = kept();
    this.onChange = onChange;
    this.log = element("input", { type: "checkbox" });
    this.log.checked = this.style.log;
    this.smoothing = element("input", { type: "range", min: 0, max: MOST, step: 0.01 });
    this.smoothing.value = this.style.smoothing;
    this.weight = element("output");
    this.node = element("p", { class: "controls" }, element("label", {}, this.log, " Log scale"),
      element("label", {}, "Smoothing ", this.smoothing), this.weight);
    this.log.addEventListener("change", () => this.change({ log: this.log.checked }));
    this.smoothing.addEventListener("input", () => this.change({ smoothing: Number(this.smoothing.value) }));
    this.describe();
  }

  change(part) {
    this.style = { ...this.style, ...part };
    try { sessionStorage.setItem(KEY, JSON.stringify(this.style)); } catch { /* it is not kept */ }
    this.describe();
    this.onChange(this.style);
  }

  describe() {
    const { smoothing } = this.style;
    const words = smoothing ? `moving average, weight ${smoothing}` : "off";
    setText(this.weight, words);
    this.smoothing.setAttribute("aria-valuetext", words);
  }
}
