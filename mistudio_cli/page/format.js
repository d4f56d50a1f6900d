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
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

export function whole(count) {
  return count === null || count === undefined ? UNKNOWN : count.toLocaleString("en");
}

export function countOf(count, word) {
  return `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
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

const MOST_OF_REASON = 160;

// Why a job is not running: the reason it ended for, without the parents it came through, or what it waits for.
export function reasonText(job) {
  const reason = (job.state === "queued" ? queuedReason(job) : job.error?.message ?? job.reason ?? "")
    .replace(/^its parent (\S+ \(\S+\) (failed|cancelled): )+/, (_, each, how) => `a parent ${how === "failed" ? how : "was cancelled"}: `);
  return reason.length > MOST_OF_REASON ? `${reason.slice(0, MOST_OF_REASON)}…` : reason || UNKNOWN;
}

// Why a queued job does not run: what is the matter with its queue or, where `queueState` and `place` are given, its turn;
// of one that has run before also why it is queued again.
function queuedReason({ queue, queueState, place, attempt, reason }) {
  if (queueState === "paused") return `${queue} is paused`;
  if (queueState === "no worker") return `no worker consumes ${queue}`;
  return `${place ? `#${place}` : "queued"} in ${queue}${attempt ? `: ${reason}` : ""}`;
}

// The reason of a change of state; that a job runs since a worker claimed it goes without saying.
export function eventReason(reason) {
  return reason === "claimed" ? "" : reason ?? "";
}

export function progressText(progress) {
  if (!progress) return UNKNOWN;
  const done = fraction(progress);
  const total = progress.total ? `/${whole(progress.total)}` : "";
  const count = progress.done || total ? `${whole(progress.done)}${total} ${progress.unit}` : "";
  return `${done === null ? "" : `${Math.floor(done * 100)} % `}${progress.phase} ${count}`.trim();
}

export function seconds(from, to) {
  if (!from) return null;
  return ((to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000;
}
