// The camera: its latest frame is classified, one at a time; a frame can be kept as a picture.

import { id, latest, t } from "./dom.js";

/** Longest side of a frame that is sent. */
const MAX_SIDE = 512;
/** Milliseconds to wait after a frame that the fleet could not judge. */
const PAUSE = 1000;

/**
 * @typedef {{classify: (frame: Blob) => Promise<boolean>, keep: (frame: File) => unknown,
 *   fail: (title: string, text: string) => void}} Page
 */

export class Camera {
  /** @type {HTMLVideoElement} */
  #video = id("camera-view");
  #button = id("camera");
  #still = id("camera-still");
  #name = this.#button.textContent;
  /** @type {MediaStream | null} */
  #stream = null;
  /** The pending request for the camera, until the browser grants it. @type {object | null} */
  #wish = null;
  #page;
  // The next frame is taken when the last one has been answered.
  #ask = latest(async () => {
    while (this.#stream && !document.hidden) {
      const frame = await this.#frame();
      const isAnswered = frame !== null && await this.#page.classify(frame);
      // A fleet that is down is not sent a frame each time the screen is drawn.
      await new Promise((resolve) => (isAnswered ? requestAnimationFrame(resolve) : setTimeout(resolve, PAUSE)));
    }
  });

  /** @param {Page} page */
  constructor(page) {
    this.#page = page;
    this.#still.addEventListener("click", async () => {
      const frame = await this.#frame();
      if (!frame) return;
      this.#button.focus();
      this.stop();
      page.keep(new File([frame], `${t("photo")}.jpg`, { type: "image/jpeg" }));
    });
    document.addEventListener("visibilitychange", () => this.#stream && this.#ask());
  }

  get isOn() {
    return this.#stream !== null;
  }

  toggle() {
    if (this.#stream || this.#wish) this.stop();
    else this.#start();
  }

  stop() {
    end(this.#stream);
    this.#stream = this.#wish = null;
    this.#video.srcObject = null;
    this.#video.hidden = this.#still.hidden = true;
    this.#button.textContent = this.#name;
    id("upload").classList.remove("has-video");
  }

  async #start() {
    const own = {};
    this.#wish = own;
    this.#button.textContent = t("camera_stop");
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      // The camera may have been stopped meanwhile.
      if (this.#wish !== own) return end(stream);
      this.#stream = stream;
    } catch (error) {
      if (this.#wish !== own) return;
      this.stop();
      this.#page.fail(t("no_camera"), error instanceof Error ? error.message : String(error));
      return;
    }
    this.#wish = null;
    for (const track of this.#stream.getTracks()) track.addEventListener("ended", () => this.stop());
    this.#video.srcObject = this.#stream;
    this.#video.hidden = this.#still.hidden = false;
    id("upload").classList.add("has-video");
    await this.#video.play().catch(() => {});
    this.#ask();
  }

  /** The frame that is shown now; `null` before the first. @returns {Promise<Blob | null>} */
  #frame() {
    const { videoWidth: width, videoHeight: height } = this.#video;
    if (!width || !height) return Promise.resolve(null);
    const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
    const canvas = Object.assign(document.createElement("canvas"), { width: width * scale, height: height * scale });
    canvas.getContext("2d")?.drawImage(this.#video, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
  }
}

/** @param {MediaStream | null} stream */
function end(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}
