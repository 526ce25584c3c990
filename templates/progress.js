// The one task that is in progress: how far it is, and how to cancel it.

import { id, reveal, say, t } from "./dom.js";

/** The task in progress. @type {AbortController | null} */
let pending = null;

/**
 * Cancels the previous task, runs `work`, and shows its progress.
 * @param {(signal: AbortSignal, onProgress: (share: number) => void) => Promise<void>} work
 */
export async function during(work) {
  pending?.abort();
  const own = new AbortController();
  pending = own;
  const bar = id("progress");
  bar.hidden = id("cancel").hidden = false;
  bar.value = 0;
  say(t("sending"));
  reveal(bar.parentElement);
  try {
    await work(own.signal, (share) => {
      if (pending !== own) return;
      if (share < 1) bar.value = share * 100;
      else bar.removeAttribute("value");
      if (share === 1) say(t("waiting"));
    });
  } finally {
    if (pending === own) end();
  }
}

function end() {
  pending = null;
  const hadFocus = document.activeElement === id("cancel");
  id("progress").hidden = id("cancel").hidden = true;
  if (hadFocus) id("go").focus();
}

id("cancel").addEventListener("click", () => {
  pending?.abort();
  end();
  say(t("cancelled"));
});
