// Numbers and times as people read them; what is not known is "–", never 0.

const UNKNOWN = "–";

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

export function bytes(count) {
  if (count === null || count === undefined) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (count >= 1024 && step < units.length - 1) { count /= 1024; step += 1; }
  return `${count >= 10 || step === 0 ? Math.round(count) : count.toFixed(1)} ${units[step]}`;
}

export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

export function time(text) {
  if (!text) return UNKNOWN;
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? text : at.toLocaleString([], { dateStyle: "short", timeStyle: "medium" });
}

export function plain(value, unit = "") {
  return value === null || value === undefined || value === "" ? UNKNOWN : `${value}${unit}`;
}

export function fraction(progress) {
  return progress && progress.total ? Math.min(1, progress.done / progress.total) : null;
}

export function progressText(progress) {
  if (!progress) return UNKNOWN;
  const done = fraction(progress);
  const count = progress.total ? `${progress.done}/${progress.total}` : `${progress.done}`;
  return `${done === null ? "" : `${Math.floor(done * 100)} % `}${progress.phase} ${count} ${progress.unit}`.trim();
}

export function seconds(from, to) {
  if (!from) return null;
  return ((to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000;
}
