// Logic of the page that needs no browser: node --test

import "./browser.js";
import assert from "node:assert/strict";
import test from "node:test";

const templates = new URL("../../../templates/", import.meta.url);
const load = (name) => import(new URL(name, templates));
const { inParallel, latest, root } = await load("dom.js");
const { plan } = await load("shrink.js");
const { csvRow } = await load("batch.js");
const { asCurl, asPython, quoted } = await load("tools.js");
const { addressIn } = await load("sources.js");
const { rgba } = await load("view.js");

test("paths begin where the page says", () => {
  assert.equal(root.href, "http://fleet.example:5000/");
});

test("the latest wish is carried out once more, and none between", async () => {
  const done = [];
  let release;
  let wish = 1;
  const ask = latest(async () => {
    done.push(wish);
    await new Promise((resolve) => { release = resolve; });
  });
  const first = ask();
  for (wish of [2, 3, 4]) ask();
  release();
  await new Promise((resolve) => setImmediate(resolve));
  release();
  await first;
  assert.deepEqual(done, [1, 4]);
});

test("work that fails does not end the wishes", async () => {
  let count = 0;
  const ask = latest(async () => {
    count += 1;
    if (count === 1) throw new Error("once");
  });
  await assert.rejects(ask());
  await ask();
  assert.equal(count, 2);
});

test("every item is worked on once, so many at a time", async () => {
  let running = 0;
  let most = 0;
  const seen = [];
  await inParallel([..."abcdefgh"], 3, async (item) => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setImmediate(resolve));
    seen.push(item);
    running -= 1;
  });
  assert.deepEqual(seen.sort().join(""), "abcdefgh");
  assert.equal(most, 3);
});

test("a picture is drawn again when it is too large or only the browser reads it", () => {
  const photo = { type: "image/jpeg", name: "a.jpg", bytes: 3e6, width: 4000, height: 3000 };
  assert.equal(plan({ ...photo, width: 1000, height: 800 }, 10e6), null);
  assert.deepEqual(plan({ ...photo, bytes: 11e6 }, 10e6), { width: 2048, height: 1536, isForeign: false });
  assert.deepEqual(plan({ ...photo, width: 8660, height: 5774 }, 10e6), { width: 2048, height: 1365, isForeign: false });
  for (const [type, name, isForeign] of [
    ["image/avif", "a.avif", true],
    ["image/svg+xml", "a.svg", true],
    ["image/heic", "a.heic", true],
    ["", "a.heic", true],
    ["", "A.JPG", false],
    ["image/tiff", "a.tif", false],
    ["image/bmp", "a", false],
  ]) {
    assert.equal(plan({ type, name, bytes: 1000, width: 64, height: 64 }, 10e6)?.isForeign ?? false, isForeign, type + name);
  }
});

test("cells of CSV hold everything, and no spreadsheet takes one for a formula", () => {
  assert.equal(csvRow(["a", 0.5, 'b"c', "d,e", "f\ng"]), 'a,0.5,"b""c","d,e","f\ng"\r\n');
  assert.equal(csvRow(["=1+1", "@x", -1]), "'=1+1,'@x,-1\r\n");
});

test("an answer is a command again, whatever the picture is called", () => {
  const entry = { picture: new Blob(), name: "it's here.png", model: "mnist", options: { servers: "2" }, prediction: {} };
  assert.equal(
    asCurl(entry, "http://a:5000/submit"),
    "curl -H 'Accept: application/json' -F number_backend_servers=2 -F model=mnist -F 'image=@it'\\''s here.png' http://a:5000/submit",
  );
  const fetched = { ...entry, picture: "http://b/c.png?d=1&e=2", options: {} };
  assert.match(asCurl(fetched, "http://a/submit"), /-F 'IMAGE_URL=http:\/\/b\/c.png\?d=1&e=2'/);
  assert.match(asPython(entry, "http://a/submit"), /files=\{"image": open\("it's here.png", "rb"\)\}/);
  assert.match(asPython(fetched, "http://a/submit"), /"IMAGE_URL":"http:\/\/b/);
  assert.equal(quoted("$(x)"), "'$(x)'");
});

test("what a model was given becomes pixels again, grey or coloured", () => {
  const pixels = (bytes) => Buffer.from(bytes).toString("base64");
  const grey = rgba({ width: 2, height: 1, channels: 1, pixels: pixels([0, 200]) });
  assert.deepEqual([...grey], [0, 0, 0, 255, 200, 200, 200, 255]);
  const coloured = rgba({ width: 1, height: 1, channels: 3, pixels: pixels([1, 2, 3]) });
  assert.deepEqual([...coloured], [1, 2, 3, 255]);
});

test("only web addresses are taken from a text", () => {
  for (const [text, address] of [
    ["https://a.example/b.png", "https://a.example/b.png"],
    ["# a comment\r\nhttp://a/b", "http://a/b"],
    [" http://a/b \n", "http://a/b"],
    ["javascript:alert(1)", ""],
    ["see http://a/b", ""],
    ["", ""],
  ]) {
    assert.equal(addressIn(text), address, text);
  }
});
