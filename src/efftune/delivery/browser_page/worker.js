// The model, in a thread of its own, so that the page stays responsive.

import * as ort from "./onnxruntime-web.js";
import { decoded, ofBitmap, square, thumbnail, Unreadable } from "./pixels.js";

const THUMBNAIL = 240; // longest side, in pixels
const FILES = ["model.onnx", "onnxruntime-web.wasm"];

let settings;
let session;
let last = Promise.resolve(); // pictures are answered one after the other

async function start() {
  settings = JSON.parse(new TextDecoder().decode(await fetched("settings.json")));
  requireTruePixels();
  const sizes = FILES.map((name) => settings.files[name]);
  const total = sizes.reduce((sum, each) => sum + each, 0);
  const loaded = FILES.map(() => 0);
  const [model, wasm] = await Promise.all(
    FILES.map((name, i) =>
      fetched(name, sizes[i], (bytes) => {
        loaded[i] = bytes;
        postMessage({ kind: "progress", share: loaded.reduce((sum, each) => sum + each, 0) / total });
      }),
    ),
  );
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1; // more need headers that most static servers do not send
  ort.env.logLevel = "error";
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  await probabilitiesOf(new Float32Array(3 * settings.image_size ** 2)); // the first call is slow
}

/** The bytes of a file beside this one. */
async function fetched(name, size, onBytes = () => {}) {
  const response = await fetch(new URL(name, import.meta.url)).catch(() => {
    throw new Error(`${name} cannot be loaded: the server does not answer.`);
  });
  if (!response.ok) throw new Error(`${name} cannot be loaded: the server answers ${response.status}.`);
  const chunks = [];
  let received = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    onBytes((received += value.length));
  }
  if (size !== undefined && received !== size) {
    throw new Error(`${name} has ${received} bytes on the server and should have ${size}. Copy the folder again.`);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

/** Some browsers, if set so, falsify the pixels that pages read, to hide who uses them. */
function requireTruePixels() {
  const colours = [12, 130, 250, 77].map((red) => [red, 255 - red, red >> 1]);
  const context = new OffscreenCanvas(8, 4).getContext("2d");
  colours.forEach((colour, y) => {
    context.fillStyle = `rgb(${colour})`;
    context.fillRect(0, y, 8, 1);
  });
  const { data } = context.getImageData(0, 0, 8, 4);
  const same = data.every((value, i) => value === [...colours[i >> 5], 255][i % 4]);
  if (!same) {
    throw new Error("This browser hides the pixels of pictures from pages. Allow this page to read them (canvas), or use another browser.");
  }
}

async function probabilitiesOf(pixels) {
  const side = settings.image_size;
  const input = new ort.Tensor("float32", pixels, [1, side, side, 3]);
  const outputs = await session.run({ [session.inputNames[0]]: input });
  return outputs[session.outputNames[0]].data;
}

async function answered({ blob, frame }) {
  const { image_size: size, fit } = settings;
  const seen = (picture) => ({
    pixels: square(picture, size, fit),
    thumbnail: frame ? null : thumbnail(picture, THUMBNAIL, fit),
  });
  const { pixels, ...shown } = frame ? ofBitmap(frame, seen) : await decoded(blob, settings, seen);
  return { probabilities: Float32Array.from(await probabilitiesOf(pixels)), ...shown };
}

const started = start().then(
  () => postMessage({ kind: "ready", settings }),
  (error) => {
    postMessage({ kind: "failed", reason: String(error?.message ?? error) });
    throw error;
  },
);
started.catch(() => {}); // told already

addEventListener("message", ({ data }) => {
  last = last.then(async () => {
    try {
      await started;
      const answer = await answered(data);
      postMessage({ kind: "answer", id: data.id, ...answer });
    } catch (error) {
      const reason = error instanceof Unreadable ? error.message : `It cannot be answered: ${error?.message ?? error}`;
      postMessage({ kind: "error", id: data.id, reason });
    }
  });
});
