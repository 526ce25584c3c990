// Sample pictures, drawn for this page, for who has none at hand.

import { decoded } from "./shrink.js";

const SIDE = 320;

/** @param {(file: File) => unknown} take */
export function samples(take) {
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-sample]"))) {
    button.addEventListener("click", async () => {
      const source = /** @type {HTMLImageElement} */ (button.firstElementChild).src;
      const image = await decoded(await (await fetch(source)).blob());
      if (!image) return;
      // Workers do not read SVG.
      const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
      canvas.getContext("2d")?.drawImage(image, 0, 0, SIDE, SIDE);
      canvas.toBlob((blob) => blob && take(new File([blob], `${button.dataset.sample}.png`, { type: "image/png" })), "image/png");
    });
  }
}
