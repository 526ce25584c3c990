// What the fleet is doing, as it changes: server-sent events, or polling where the balancer has no
// room for another stream. A hidden page does neither.

import { root } from "./dom.js";

/**
 * @typedef {{name: string, state: string, in_flight: number, answered: number, failed: number,
 *   share: number | null}} Endpoint
 * @typedef {{ready: boolean, models: string[], tables: string[], default_model: string | null,
 *   policy?: string, workers?: number, available?: number, endpoints?: Endpoint[]}} Status
 */

/** Milliseconds between two questions, and those after which a stream that has not come back is missed. */
const PAUSE = 3000;

/** @type {EventSource | null} */
let stream = null;
/** For the next question. */
let timer = 0;
/** For missing the balancer. */
let missing = 0;

/**
 * @param {(status: Status) => void} tell Hears the status when the page has come up, and then whenever it has changed.
 * @param {() => void} lose Hears that the balancer says nothing any more.
 */
export function watch(tell, lose) {
  const start = () => {
    stop();
    if (document.hidden) return;
    stream = new EventSource(new URL("status/events", root));
    stream.onmessage = (event) => hear(JSON.parse(event.data));
    stream.onerror = () => {
      // Every stream ends after a while. Then, and while it is interrupted, the browser comes back by itself.
      missing ||= setTimeout(lose, PAUSE);
      if (stream?.readyState === EventSource.CLOSED) ask();
    };
  };
  const hear = (/** @type {Status} */ status) => {
    clearTimeout(missing);
    missing = 0;
    tell(status);
  };
  const ask = async () => {
    try {
      const answer = await fetch(new URL("status.json", root), { cache: "no-store" });
      if (answer.ok) hear(await answer.json());
    } catch {
      // The balancer is away; perhaps not for long.
    }
    clearTimeout(timer);
    timer = setTimeout(() => stream && start(), PAUSE);
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  addEventListener("pagehide", stop);
  // Also when it has come up: what it shows until then is what the balancer knew when it was asked for.
  addEventListener("pageshow", start);
}

function stop() {
  stream?.close();
  stream = null;
  clearTimeout(timer);
}
