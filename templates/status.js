// The status of the fleet as it changes: server-sent events, or polling if the balancer has no room
// for another stream. A hidden page does neither.

import { root } from "./dom.js";

/**
 * @typedef {{name: string, state: string, in_flight: number, answered: number, failed: number,
 *   share: number | null}} Endpoint
 * @typedef {{ready: boolean, models: string[], tables: string[], default_model: string | null,
 *   policy?: string, workers?: number, available?: number, endpoints?: Endpoint[]}} Status
 */

/** Milliseconds between two polls, and before a stream that has not come back is considered lost. */
const PAUSE = 3000;

/** @type {EventSource | null} */
let stream = null;
/** Timer of the next poll. */
let timer = 0;
/** Timer after which the balancer is considered lost. */
let missing = 0;

/**
 * @param {(status: Status) => void} tell Called with the status when the page is shown, and then whenever it changes.
 * @param {() => void} lose Called when the balancer no longer responds.
 */
export function watch(tell, lose) {
  const start = () => {
    stop();
    if (document.hidden) return;
    stream = new EventSource(new URL("status/events", root));
    stream.onmessage = (event) => hear(JSON.parse(event.data));
    stream.onerror = () => {
      // Every stream ends after a while. Then, and after an interruption, the browser reconnects by itself.
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
      // The balancer is unreachable, perhaps not for long.
    }
    clearTimeout(timer);
    timer = setTimeout(() => stream && start(), PAUSE);
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  addEventListener("pagehide", stop);
  // Also when the page is first shown: until then it has the status as of its own request.
  addEventListener("pageshow", start);
}

function stop() {
  stream?.close();
  stream = null;
  clearTimeout(timer);
}
