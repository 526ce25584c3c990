// The drawing pad. A drawing is a list of strokes, so that the last one can be taken back and the
// pen's width changed; a stroke may begin outside the pad, as hands do.

/** @typedef {{width: number, points: number[][]}} Stroke */

const STEP = 8;

export class Pad {
  /** @type {Stroke[]} */
  #strokes = [];
  /** @type {Stroke | null} */
  #open = null;
  /** Position of the keyboard's pen, once it has been used. @type {number[] | null} */
  #cursor = null;
  #canvas;
  #changed;
  width = 20;

  /**
   * @param {HTMLCanvasElement} canvas @param {HTMLElement} paper The element around the canvas that takes strokes.
   * @param {(isDone: boolean) => void} changed Called on every change, with whether the pen is up.
   */
  constructor(canvas, paper, changed) {
    this.#canvas = canvas;
    this.#changed = changed;
    this.#paint();
    paper.addEventListener("pointerdown", (event) => this.#begin(event, paper));
    paper.addEventListener("pointermove", (event) => {
      if (this.#open && paper.hasPointerCapture(event.pointerId)) {
        for (const one of event.getCoalescedEvents?.() ?? [event]) this.#extend(this.#place(one));
        this.#changed(false);
      }
    });
    for (const end of ["pointerup", "pointercancel"]) paper.addEventListener(end, () => this.#finish());
    canvas.addEventListener("keydown", (event) => this.#press(event));
    canvas.addEventListener("blur", () => this.#finish());
  }

  get isBlank() {
    return this.#strokes.length === 0;
  }

  undo() {
    this.#strokes.pop();
    this.#open = null;
    this.#paint();
    this.#changed(true);
  }

  clear() {
    this.#strokes = [];
    this.#open = null;
    this.#paint();
    this.#changed(true);
  }

  /** The drawing without the keyboard's pen. */
  picture() {
    this.#paint(false);
    // `toBlob` waits until the browser is idle; a drawing is small enough to be encoded immediately.
    const [, text] = this.#canvas.toDataURL("image/png").split(",");
    this.#paint();
    return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: "image/png" });
  }

  /** @param {PointerEvent} event @param {HTMLElement} paper */
  #begin(event, paper) {
    if (this.#open || event.button !== 0) return;
    paper.setPointerCapture(event.pointerId);
    this.#canvas.focus({ preventScroll: true });
    event.preventDefault();
    this.#cursor = null;
    this.#start(this.#place(event));
  }

  /** @param {number[]} place */
  #start(place) {
    this.#open = { width: this.width, points: [place] };
    this.#strokes.push(this.#open);
    this.#paint();
  }

  /** @param {number[]} place */
  #extend(place) {
    this.#open?.points.push(place);
    this.#paint();
  }

  #finish() {
    if (!this.#open) return;
    this.#open = null;
    this.#paint();
    this.#changed(true);
  }

  /** @param {PointerEvent} event */
  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    const scale = this.#canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const middle = this.#canvas.width / 2;
    const at = this.#cursor ?? [middle, middle];
    const step = event.shiftKey ? STEP / 4 : STEP;
    /** @type {Record<string, number[]>} */
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) {
      const inside = (/** @type {number} */ value) => Math.min(Math.max(value, 0), this.#canvas.width);
      this.#cursor = at.map((value, axis) => inside(value + moves[event.key][axis]));
      if (this.#open) {
        this.#extend(this.#cursor);
        this.#changed(false);
      }
    } else if (event.key === " ") {
      this.#cursor = at;
      if (this.#open) this.#finish();
      else this.#start(at);
    } else if (event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey))) {
      this.undo();
    } else if (event.key === "Delete") {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
    this.#paint();
  }

  #paint(hasCursor = true) {
    const ink = /** @type {CanvasRenderingContext2D} */ (this.#canvas.getContext("2d"));
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    ink.lineCap = ink.lineJoin = "round";
    ink.strokeStyle = "#111";
    for (const { width, points } of this.#strokes) {
      ink.lineWidth = width;
      ink.beginPath();
      ink.moveTo(points[0][0], points[0][1]);
      for (const [x, y] of points) ink.lineTo(x, y);
      ink.stroke();
    }
    if (!hasCursor || !this.#cursor) return;
    ink.beginPath();
    ink.lineWidth = 3;
    ink.strokeStyle = this.#open ? "#c2410c" : "#2b4cc4";
    ink.arc(this.#cursor[0], this.#cursor[1], this.width / 2 + 3, 0, 7);
    ink.stroke();
  }
}
