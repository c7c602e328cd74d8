// What people see and do. The model answers in worker.js.

const SHOWN = 3; // answers of a card; the others unfold
const MOST_NAMED = 12; // classes in the line below the title
const element = (id) => document.getElementById(id);

const waiting = new Map(); // what to do with an answer, by its number
let settings;
let number = 0;
let camera; // the stream, while it runs
let isReady = false;

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const ready = new Promise((resolve, reject) => {
  worker.addEventListener("error", (event) => {
    const reason = event.message || "A file of the page is missing, or this browser is too old";
    reject(new Error(reason));
  });
  worker.addEventListener("message", ({ data }) => {
    if (data.kind === "progress") element("progress").value = data.share;
    if (data.kind === "ready") resolve(data.settings);
    if (data.kind === "failed") reject(new Error(data.reason));
  });
});

worker.addEventListener("message", ({ data }) => {
  const { resolve, reject } = waiting.get(data.id) ?? {};
  waiting.delete(data.id);
  if (data.kind === "answer") resolve(data);
  if (data.kind === "error") reject(new Error(data.reason));
});

/** Answer a file, or a frame of the camera: probabilities, and what is shown of a file. */
async function ask(content, transferred = []) {
  await ready;
  return new Promise((resolve, reject) => {
    waiting.set(++number, { resolve, reject });
    worker.postMessage({ id: number, ...content }, transferred);
  });
}

// For programs: probabilities in the order of `classes`.
window.efftune = {
  get ready() {
    return ready.then(() => undefined);
  },
  get classes() {
    return settings?.classes;
  },
  async classify(blob) {
    return [...(await ask({ blob })).probabilities];
  },
};

element("stuck").remove();
ready.then(opened, failed);

function opened(found) {
  settings = found;
  isReady = true;
  const title = line(settings.title);
  document.title = title;
  element("title").textContent = title;
  element("about").textContent = `${settings.about}.`;
  element("loading").hidden = true;
  const { classes } = settings;
  const rest = classes.length > MOST_NAMED ? ` and ${(classes.length - MOST_NAMED).toLocaleString("en")} more` : "";
  element("classes").append("Tells apart ");
  classes.slice(0, MOST_NAMED).forEach((name, i) => {
    element("classes").append(i ? ", " : "", nameOf(name));
  });
  element("classes").append(rest);
}

function failed(error) {
  element("loading").hidden = true;
  element("start").classList.add("broken");
  worker.terminate();
  document.querySelectorAll("button, input").forEach((each) => (each.disabled = true));
  element("failed").hidden = false;
  element("failed").textContent = `The model cannot be started. ${sentence(error.message)}`;
}

const line = (text) => text.replace(/\s+/g, " ").trim();
const sentence = (text) => text + (/[.?!]$/.test(text) ? "" : ".");

function made(tag, className = "", ...content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...content);
  return node;
}

/** A class; its name may be in any script, and hold anything. */
function nameOf(name) {
  return made("bdi", "name", line(name) || "(no name)");
}

function percent(share) {
  if (share > 0.999 && share < 1) return "> 99.9 %";
  if (share < 0.001 && share > 0) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

/** Classes by probability, the most likely first. */
function ranked(probabilities) {
  return [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
}

function isUnsure(probabilities) {
  return settings.unsure_below !== null && Math.max(...probabilities) < settings.unsure_below;
}

function rows(probabilities, classes) {
  const list = made("ul", "bars");
  for (const i of classes) {
    const bar = made("span", "track", made("span", "fill"));
    bar.firstChild.style.width = `${100 * probabilities[i]}%`;
    bar.setAttribute("aria-hidden", "true");
    list.append(made("li", "", nameOf(settings.classes[i]), made("span", "share", percent(probabilities[i])), bar));
  }
  return list;
}

function verdict(probabilities, order) {
  const unsure = isUnsure(probabilities);
  const top = made("p", unsure ? "top unsure" : "top");
  if (unsure) top.append(made("span", "doubt", made("span", "chip", "unsure"), " perhaps"), " ");
  top.append(made("strong", "", nameOf(settings.classes[order[0]])));
  return top;
}

// Pictures, each on a card

function add(files) {
  const pictures = [...files];
  if (!pictures.length) return;
  problem("");
  element("results").hidden = false;
  document.body.classList.add("used"); // the place for more pictures becomes smaller
  const cards = pictures.map(cardOf);
  element("cards").prepend(...cards);
  pictures.forEach((file, i) => answerOn(cards[i], file));
  summarise();
}

function cardOf(file) {
  const file_name = made("p", "file quiet", made("bdi", "", file.name || "pasted picture"));
  const picture = made("div", "picture");
  const card = made("li", "card busy", picture, made("div", "said", file_name, made("p", "quiet pending", isReady ? "Waiting …" : "Waiting for the model …")));
  card.setAttribute("aria-busy", "true");
  return card;
}

async function answerOn(card, file) {
  const said = card.querySelector(".said");
  try {
    const { probabilities, thumbnail } = await ask({ blob: file });
    const order = ranked(probabilities);
    card.dataset.answer = isUnsure(probabilities) ? "unsure" : "sure";
    card.querySelector(".picture").append(drawn(thumbnail, file.name));
    said.append(verdict(probabilities, order), rows(probabilities, order.slice(0, SHOWN)));
    if (order.length > SHOWN) said.append(others(probabilities, order.slice(SHOWN)));
  } catch (error) {
    card.dataset.answer = "error";
    card.querySelector(".picture").append(made("span", "cross", "?"));
    said.append(made("p", "wrong", error.message));
  }
  said.querySelector(".pending").remove();
  card.classList.remove("busy");
  card.removeAttribute("aria-busy");
  summarise();
}

function drawn(thumbnail, name) {
  const canvas = made("canvas");
  canvas.width = thumbnail.width;
  canvas.height = thumbnail.height;
  canvas.getContext("2d").putImageData(thumbnail, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name || "pasted picture");
  return canvas;
}

/** The less likely classes, which may be a thousand: made when they are looked at. */
function others(probabilities, order) {
  const details = made("details", "", made("summary", "", `${order.length.toLocaleString("en")} more`));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(rows(probabilities, order));
  });
  return details;
}

function summarise() {
  const cards = [...element("cards").children];
  const count = (answer) => cards.filter((card) => card.dataset.answer === answer).length;
  const [unsure, errors] = [count("unsure"), count("error")];
  const left = cards.length - count("sure") - unsure - errors;
  const parts = [`${cards.length.toLocaleString("en")} ${cards.length === 1 ? "picture" : "pictures"}`];
  if (left) parts.push(`${left.toLocaleString("en")} to go`);
  if (unsure) parts.push(`${unsure.toLocaleString("en")} unsure`);
  if (errors) parts.push(`${errors.toLocaleString("en")} not readable`);
  element("summary").textContent = parts.join(" · ");
}

function problem(text) {
  element("problem").textContent = text;
  element("problem").hidden = !text;
}

element("files").addEventListener("change", ({ target }) => {
  add(target.files);
  target.value = ""; // so that the same file can be chosen again
});
element("clear").addEventListener("click", () => {
  element("cards").replaceChildren();
  element("results").hidden = true;
  document.body.classList.remove("used");
  element("files").focus();
});

addEventListener("paste", (event) => {
  const files = event.clipboardData?.files ?? [];
  if (files.length) event.preventDefault();
  else problem("There is no picture on the clipboard. Copy a picture or a file, and paste again.");
  if (!element("failed").hidden) return;
  add(files);
});

const carries = (event) => [...(event.dataTransfer?.types ?? [])].length > 0;
addEventListener("dragover", (event) => {
  if (!carries(event)) return;
  event.preventDefault(); // or the browser would open the file
  event.dataTransfer.dropEffect = "copy";
  element("veil").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element("veil").hidden = true;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  element("veil").hidden = true;
  if (!element("failed").hidden) return;
  const files = event.dataTransfer?.files ?? [];
  if (!files.length) problem("That was not a file. Save the picture first, then drop its file here.");
  add(files);
});

// The camera

const REFUSED = {
  NotAllowedError: "The camera may not be used: allow it for this page in the browser's settings.",
  NotFoundError: "There is no camera.",
  NotReadableError: "The camera is in use by another program.",
};

async function startCamera() {
  if (camera) return;
  problem("");
  if (!navigator.mediaDevices) {
    problem("Browsers give the camera only to pages that come by https, or from localhost.");
    return;
  }
  element("camera").disabled = true;
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    element("live").hidden = false;
    document.body.classList.add("used");
    element("video").srcObject = camera;
    camera.getVideoTracks()[0].addEventListener("ended", stopCamera);
    await element("video").play();
    element("live").scrollIntoView({ block: "nearest" });
    element("stop").focus({ preventScroll: true });
    watch(camera);
  } catch (error) {
    stopCamera();
    problem(REFUSED[error.name] ?? `The camera cannot be used: ${error.message}`);
  }
}

function stopCamera() {
  if (!element("cards").children.length) document.body.classList.remove("used");
  camera?.getTracks().forEach((track) => track.stop());
  camera = undefined;
  element("video").srcObject = null;
  element("live").hidden = true;
  element("seen").replaceChildren();
  element("camera").disabled = false;
  element("camera").focus();
}

/** Answer the newest frame, as soon as the one before is answered. */
async function watch(stream) {
  if (!isReady) element("seen").replaceChildren(made("p", "quiet", "Waiting for the model …"));
  while (camera === stream) {
    try {
      await new Promise(requestAnimationFrame); // none while the page is hidden
      if (camera !== stream) return;
      const frame = await createImageBitmap(element("video"));
      const { width, height } = frame;
      const { probabilities } = await ask({ frame }, [frame]);
      if (camera !== stream) return;
      const order = ranked(probabilities);
      mark(width, height);
      element("seen").replaceChildren(verdict(probabilities, order), rows(probabilities, order.slice(0, SHOWN)));
      element("seen").dataset.answers = Number(element("seen").dataset.answers ?? 0) + 1;
    } catch (error) {
      if (camera !== stream) return;
      stopCamera();
      problem(`The camera was stopped. ${sentence(error.message)}`);
    }
  }
}

/** Mark the square of the camera's picture that is looked at. */
function mark(width, height) {
  const { style } = element("frame");
  const side = settings.fit === "crop" ? Math.min(width, height) : 0;
  element("frame").hidden = !side;
  style.width = `${(100 * side) / width}%`;
  style.height = `${(100 * side) / height}%`;
}

element("camera").addEventListener("click", startCamera);
element("stop").addEventListener("click", stopCamera);
addEventListener("pagehide", stopCamera);
