// Draws, beside the page, which stays free for clicks. Messages in: {prompt, seed, truncation, click, index}, the
// index-th image of a click; out: see `tell`.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.js";
import { noiseOfSeed } from "./noise.js";
import { clean, readTokenizer } from "./tokenizer.js";

ort.env.wasm.numThreads = 1; // more of them need headers that a plain web server does not send
ort.env.wasm.wasmPaths = { wasm: new URL("./onnxruntime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.logLevel = "error";

const ready = load();
ready.catch((error) => tell({ error: `the model cannot be loaded: ${oneLine(error)}` }));

let queue = ready;
let newest = 0; // click: what is left of earlier ones is not drawn
self.onmessage = ({ data }) => {
  newest = data.click;
  queue = queue.then((model) => draw(model, data).then(() => model));
};

async function load() {
  const model = await (await get("model.json")).json();
  const tokenizer = await (await get("tokenizer.json", model.sha256)).json();
  const bytes = await download("model.onnx", model);
  tell({ loading: 1 });
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  tell({ ready: true });
  return { ...model, session, read: readTokenizer(tokenizer) };
}

async function draw({ session, read, z_dim }, { prompt, seed, truncation, click, index }) {
  if (click !== newest) return;
  try {
    const start = performance.now();
    const { ids, cut } = read(clean(prompt));
    const whole = (numbers) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, numbers.length]);
    const results = await session.run({
      input_ids: whole(ids),
      attention_mask: whole(ids.map(() => 1)),
      noise: new ort.Tensor("float32", noiseOfSeed(seed, z_dim), [1, z_dim]),
      truncation: new ort.Tensor("float32", Float32Array.of(truncation), []),
    });
    const { data, dims } = results.images; // uint8 [1, h, w, 3], or 4 with alpha
    const [count, channels] = [dims[1] * dims[2], dims[3]];
    const pixels = new Uint8ClampedArray(4 * count).fill(255);
    for (let i = 0; i < count; i++) pixels.set(data.subarray(channels * i, channels * (i + 1)), 4 * i);
    tell({ click, index, pixels, cut, milliseconds: performance.now() - start });
  } catch (error) {
    tell({ click, index, error: `this image cannot be drawn: ${oneLine(error)}` });
  }
}

/** A file of this folder. version: so that a browser does not take that of an earlier export from its cache. */
async function get(name, version = "") {
  const url = new URL(version ? `${name}?${version}` : name, import.meta.url);
  const response = await fetch(url, { cache: version ? "default" : "no-cache" });
  if (!response.ok) throw new Error(`${name}: the server answers ${response.status}`);
  return response;
}

/** A large file as one array; tells how much of it is here. */
async function download(name, { bytes: size, sha256 }) {
  const bytes = new Uint8Array(size);
  let here = 0;
  for (const reader = (await get(name, sha256)).body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (here + value.length > size) throw new Error(`${name} is larger than model.json says`);
    bytes.set(value, here);
    here += value.length;
    tell({ loading: here / size });
  }
  if (here < size) throw new Error(`${name} ends after ${here} of ${size} bytes`);
  return bytes;
}

function oneLine(error) {
  return String(error?.message ?? error).split("\n")[0].slice(0, 200);
}

/** To the page: {loading: share}, {ready}, {error}, or of an image {click, index, pixels, cut, milliseconds}. */
function tell(message) {
  self.postMessage(message);
}
