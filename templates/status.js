// What the fleet is doing, as it changes: server-sent events, or a question now and then where the
// balancer has no place for one more stream. A hidden page listens to nothing.

import { root } from "./dom.js";

/**
 * @typedef {{name: string, state: string, in_flight: number, answered: number, failed: number,
 *   share: number | null}} Endpoint
 * @typedef {{ready: boolean, models: string[], tables: string[], default_model: string | null,
 *   policy?: string, workers?: number, available?: number, endpoints?: Endpoint[]}} Status
 */

const PAUSE = 3000;

/** @type {EventSource | null} */
let stream = null;
let timer = 0;

/** @param {(status: Status) => void} tell Hears the status at once, and then whenever it has changed. */
export function watch(tell) {
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start(tell)));
  addEventListener("pagehide", stop);
  addEventListener("pageshow", () => start(tell));
  start(tell);
}

/** @param {(status: Status) => void} tell */
function start(tell) {
  stop();
  if (document.hidden) return;
  stream = new EventSource(new URL("status/events", root));
  stream.onmessage = (event) => tell(JSON.parse(event.data));
  stream.onerror = () => {
    // While it is only interrupted, the browser comes back by itself.
    if (stream?.readyState === EventSource.CLOSED) ask(tell);
  };
}

function stop() {
  stream?.close();
  stream = null;
  clearTimeout(timer);
}

/** @param {(status: Status) => void} tell */
async function ask(tell) {
  try {
    const answer = await fetch(new URL("status.json", root), { cache: "no-store" });
    if (answer.ok) tell(await answer.json());
  } catch {
    // The balancer is away; perhaps not for long.
  }
  clearTimeout(timer);
  timer = setTimeout(() => (stream && !document.hidden ? start(tell) : undefined), PAUSE);
}
