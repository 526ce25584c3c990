// The pane of the drawing pad: a drawing is read while it is drawn, one request at a time.

import { id, latest, percent, setText, t } from "./dom.js";
import { Pad } from "./pad.js";
import { headline, send } from "./send.js";

/** Time without a new point after which an unfinished stroke is read. */
const PAUSE = 80;

/**
 * @param {{options: () => import("./send.js").Options, isOpen: () => boolean,
 *   keep: (entry: import("./result.js").Entry, isQuiet: boolean) => void,
 *   fail: (title: string, text: string) => void}} page
 */
export function useDrawing({ options, isOpen, keep, fail }) {
  let timer = 0;
  /** The number of the drawing: a new answer to the same drawing replaces the last one in the list. */
  let number = 0;
  const read = latest(async () => {
    const own = number;
    if (pad.isBlank) return;
    const picture = pad.picture();
    const asked = { ...options(), model: "mnist" };
    const reply = await send(picture, { ...asked, showsInput: true });
    if (!reply || !isOpen() || own !== number) return;
    setText(id("reading"), reply.prediction ? `${reply.prediction.label} · ${percent(reply.prediction.confidence)}` : headline(reply));
    if (!reply.prediction) return fail(headline(reply), reply.error);
    const { prediction, milliseconds } = reply;
    const url = URL.createObjectURL(picture);
    keep({ picture, url, name: t("drawing"), prediction, milliseconds, model: "mnist", key: `drawing ${number}`, options: asked }, true);
  });
  const pad = new Pad(id("pad"), id("paper"), (isDone) => {
    clearTimeout(timer);
    if (pad.isBlank) {
      number += 1;
      setText(id("reading"), "");
    }
    if (pad.isBlank) return;
    if (isDone) read();
    else timer = setTimeout(read, PAUSE);
  });
  id("undo").addEventListener("click", () => pad.undo());
  id("clear").addEventListener("click", () => pad.clear());
  id("pen").addEventListener("input", () => { pad.width = Number(id("pen").value); });
  return {
    read,
    get isBlank() {
      return pad.isBlank;
    },
  };
}
