// The page: reads the form, asks the worker for images, shows them.

import { LARGEST_SEED } from "./noise.js";
import { clean } from "./tokenizer.js";

const at = (id) => document.getElementById(id);
const model = await (await fetch("model.json", { cache: "no-cache" })).json();
const worker = new Worker("worker.js", { type: "module" });
const megabytes = `${(model.bytes / 1e6).toFixed(0)} MB`;
let click = 0; // the newest one, and its images: prompt and seed, or milliseconds once it is drawn
let asked = [];
let drawn = [];

at("about").textContent =
  `${model.architecture}, ${model.width} × ${model.height} px, trained on ${model.data}. ` +
  `The model (${megabytes}) runs in this browser: what you type stays here.`;
at("licences").textContent = model.licences ? `Training images: ${model.licences}. ` : "";
for (const prompt of model.prompts) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: prompt });
  button.addEventListener("click", () => {
    at("prompt").value = prompt;
    draw(1);
  });
  at("prompts").append(button);
}
at("prompt").value = model.prompts[0] ?? "a table";

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  draw(1);
});
at("next").addEventListener("click", () => {
  at("seed").value = at("seed").value === String(LARGEST_SEED) ? 0 : Number(at("seed").value) + 1;
  draw(1);
});
at("eight").addEventListener("click", () => draw(8));
at("truncation").addEventListener("input", () => (at("value").textContent = Number(at("truncation").value).toFixed(2)));

worker.addEventListener("error", () => say("this browser cannot run the model: it is too old, or a file is missing", true));
worker.addEventListener("message", ({ data }) => {
  if (data.error) say(data.error, true);
  else if (data.ready) {
    say(`model loaded (${megabytes})`);
    for (const button of document.querySelectorAll("button")) button.disabled = false;
    draw(1);
  } else if (data.loading !== undefined) {
    say(data.loading < 1 ? `loading the model: ${Math.floor(100 * data.loading)} % of ${megabytes}` : "starting the model");
  }
  if (data.pixels && data.click === click) show(asked[data.index], data);
});

/** Ask for images of the form's prompt and `images` seeds, from the form's on. */
function draw(images) {
  const prompt = clean(at("prompt").value);
  const seed = Number(at("seed").value);
  const truncation = Number(at("truncation").value);
  if (!prompt) return say("the prompt is empty: describe an image", true);
  if (at("seed").value === "" || !Number.isInteger(seed) || seed < 0 || seed + images - 1 > LARGEST_SEED) {
    return say(`a seed is a whole number from 0 to ${LARGEST_SEED - images + 1}`, true);
  }
  click++;
  asked = Array.from({ length: images }, (_, index) => ({ prompt, seed: seed + index }));
  drawn = [];
  say("drawing");
  for (const [index, image] of asked.entries()) worker.postMessage({ ...image, truncation, click, index });
}

function show({ prompt, seed }, { pixels, cut, milliseconds }) {
  if (!drawn.length) at("images").replaceChildren();
  at("images").classList.toggle("many", asked.length > 1);
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: model.width, height: model.height });
  canvas.getContext("2d").putImageData(new ImageData(pixels, model.width), 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${prompt}, seed ${seed}`);
  const caption = document.createElement("figcaption");
  const link = document.createElement("button");
  Object.assign(link, { type: "button", textContent: "PNG", title: "Download as PNG" });
  link.addEventListener("click", () => download(canvas, prompt, seed));
  caption.append(`seed ${seed} `, link);
  const figure = document.createElement("figure");
  figure.append(canvas, caption);
  at("images").append(figure);
  drawn.push(milliseconds);
  const mean = Math.round(drawn.reduce((sum, one) => sum + one) / drawn.length);
  const count = asked.length > 1 ? `${drawn.length} of ${asked.length} images, ` : "";
  say(`${count}${mean} ms an image${cut ? "; the prompt was cut: it is longer than the model reads" : ""}`);
}

function download(canvas, prompt, seed) {
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    const name = prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
    Object.assign(link, { href: URL.createObjectURL(blob), download: `${name || "image"}-${seed}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("wrong", wrong);
}
