// Uploads an image with `fetch`; the same lines work in a browser, where the file comes from an <input type="file">.
//
//   node examples/javascript_fetch.mjs [FILE]

import { readFile } from "node:fs/promises";

const url = process.env.IMAGEFLEET ?? "http://localhost:5000";
const path = process.argv[2] ?? "docs/seven.png";

const form = new FormData();
// The picture decides: the model for photos or the one for handwritten digits.
form.append("model", "auto");
form.append("image", new Blob([await readFile(path)]), path);

const answer = await fetch(`${url}/submit`, {
  method: "POST",
  body: form,
  headers: { Accept: "application/json" },
  signal: AbortSignal.timeout(10_000),
});
const body = await answer.json();
if (!answer.ok) {
  throw new Error(`${answer.status}: ${body.error}`);
}
for (const { label, confidence } of body.top_k) {
  console.log(`${label.padEnd(20)} ${(100 * confidence).toFixed(1)} %`);
}
console.log(`${body.model} on ${body.endpoint}, ${body.timings_ms.total.toFixed(1)} ms`);
