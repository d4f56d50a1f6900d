// Requests to this origin's REST interface, with the token of this tab.

const KEY = "mistudio-token";
const PREFIX = "/api/v1";

export class Problem extends Error {
  constructor(status, detail, bearer = null) {
    super(detail);
    this.status = status;
    this.bearer = bearer;  // the token that was sent
  }
}

// The fragment is never sent to a server; it is removed from the address and the history at once.
export function takeToken() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (!found) return;
  let token = found[1];
  try { token = decodeURIComponent(token); } catch { /* it is taken as it stands */ }
  try { sessionStorage.setItem(KEY, token); } catch { /* without storage the page reads only */ }
  history.replaceState(null, "", `${location.pathname}#/now`);
}

export function token() {
  try { return sessionStorage.getItem(KEY); } catch { return null; }
}

export function forgetToken() {
  try { sessionStorage.removeItem(KEY); } catch { /* there is none */ }
}

function headers(more) {
  const bearer = token();
  return bearer ? { ...more, Authorization: `Bearer ${bearer}` } : more;
}

async function ask(path, options) {
  let answer;
  const bearer = token();
  try {
    answer = await fetch(PREFIX + path, { cache: "no-store", credentials: "omit", redirect: "error", ...options });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem(0, "The server does not answer.");
  }
  answer.bearer = bearer;
  return answer;
}

async function read(answer) {
  let body = null;
  try { body = await answer.json(); } catch { /* not JSON: the status says it */ }
  if (!answer.ok) throw new Problem(answer.status, body?.detail ?? `The server answered ${answer.status}.`, answer.bearer);
  return body;
}

export async function get(path, timeoutMs = 10000) {
  return read(await ask(path, { headers: headers({}), signal: AbortSignal.timeout(timeoutMs) }));
}

// The health report has the same shape with status 503.
export async function getHealth() {
  const answer = await ask("/workers/health", { headers: headers({}), signal: AbortSignal.timeout(10000) });
  return answer.status === 503 ? answer.json() : read(answer);
}

// The header with which a request that is sent twice is done once.
export function idempotencyKey() {
  return { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
}

export async function post(path, body = {}, more = {}) {
  const sent = headers({ "Content-Type": "application/json", ...more });
  return read(await ask(path, { method: "POST", headers: sent, body: JSON.stringify(body) }));
}

export async function stream(lastEventId, signal) {
  const sent = { Accept: "text/event-stream", ...(lastEventId ? { "Last-Event-ID": lastEventId } : {}) };
  const answer = await ask("/events", { headers: headers(sent), signal });
  if (!answer.ok) await read(answer);
  return answer.body;
}
