// A picture with its answer, and what more can be asked about it.

import { classChooser } from "./correction.js";
import { bars, button, line, made, nameOf, percent, sentence, verdict } from "./parts.js";
import { ask, Refused } from "./server.js";

const SIDE = 400; // of a preview, in pixels
const NEAREST = 6;
let number = 0;

/** A card for a picture that waits for its answer. */
export function cardOf(entry) {
  const file = made("p", "file quiet", made("bdi", "", line(entry.name)));
  file.id = `file-${++number}`;
  file.title = line(entry.name);
  const said = made("div", "said", file, made("p", "quiet pending", "Waiting …"));
  const card = made("li", "card busy", made("div", "picture"), said, made("div", "more"), made("div", "panels"));
  card.setAttribute("aria-busy", "true");
  return card;
}

/** Show what is known of a picture on its card: its answer, or why there is none. */
export function fill(card, entry, onChange) {
  const said = card.querySelector(".said");
  said.querySelector(".pending").remove();
  card.classList.remove("busy");
  card.removeAttribute("aria-busy");
  card.dataset.answer = entry.problem ? "error" : entry.answer.unsure ? "unsure" : "sure";
  const picture = card.querySelector(".picture");
  if (entry.preview) {
    picture.replaceChildren(imageOf(entry.preview, line(entry.name)));
  } else {
    const sign = entry.problem ? made("span", "cross", "?") : made("span", "kind quiet", kindOf(entry.name));
    sign.setAttribute("aria-hidden", "true");
    picture.replaceChildren(sign);
  }
  if (entry.problem) said.append(made("p", "wrong", entry.problem));
  else said.append(...verdict(entry.answer), ...bars(entry.answer.top));
  if (entry.answer) card.querySelector(".more").append(...toolsOf(card, entry, onChange));
}

/** The address of a small copy of a picture, or undefined if this browser cannot read it. */
export async function previewOf(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = made("canvas");
    canvas.width = Math.max(1, Math.round(scale * bitmap.width));
    canvas.height = Math.max(1, Math.round(scale * bitmap.height));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.85));
    return URL.createObjectURL(blob);
  } catch {
    return undefined;
  }
}

function imageOf(address, text) {
  const image = made("img");
  image.src = address;
  image.alt = text;
  return image;
}

const quiet = (text) => made("span", "quiet", text);
const kindOf = (name) => (/\.\w{1,5}$/.exec(name)?.[0] ?? ".?").slice(1).toUpperCase();

function toolsOf(card, entry, onChange) {
  const { served } = entry;
  const tools = made("div", "tools");
  const said = made("p", "corrected");
  said.setAttribute("role", "status");
  if (served.explains) tools.append(opener(card, "Heat map", () => heatMap(entry)));
  if (served.shows_training) tools.append(opener(card, "Similar", () => nearest(entry)));
  if (served.feedback) {
    const correct = opener(card, "Wrong? It is …", (close) =>
      correction(entry, close, () => {
        correct.textContent = "Change that";
        said.replaceChildren("You said ", nameOf(entry.corrected), ". ", quiet(`Sent; the photo is kept as ${entry.kept}.`));
        onChange();
      }),
    );
    tools.append(correct);
  }
  return tools.hasChildNodes() ? [tools, said] : [];
}

/** A button that opens a panel below the answer, and closes it. */
function opener(card, text, panelOf) {
  let panel;
  const close = () => {
    panel?.remove();
    panel = undefined;
    node.setAttribute("aria-expanded", "false");
    card.classList.toggle("wide", card.querySelector(".panels").childElementCount > 0);
  };
  const node = button(text, () => {
    if (panel) {
      close();
      return;
    }
    panel = made("section", "panel");
    panel.setAttribute("aria-label", text);
    card.querySelector(".panels").append(panel);
    card.classList.add("wide");
    node.setAttribute("aria-expanded", "true");
    const { content, focused } = panelOf(() => {
      close();
      node.focus();
    });
    panel.append(...content);
    focused?.focus();
    panel.scrollIntoView({ block: "nearest" });
  });
  node.setAttribute("aria-expanded", "false");
  node.setAttribute("aria-describedby", card.querySelector(".file").id);
  return node;
}

/** Which parts of a picture speak for a class. */
function heatMap(entry) {
  const choice = made("select");
  for (const { label } of entry.answer.top) choice.append(new Option(line(label) || "(no name)", label));
  const picture = made("div", "map");
  const note = made("p", "quiet");
  const label = made("label", "", "What speaks for ", choice);
  let asked = 0;

  async function show() {
    const mine = ++asked;
    const name = entry.answer.top[choice.selectedIndex].label;
    picture.setAttribute("aria-busy", "true");
    note.textContent = "Looking again …";
    try {
      const { blob, headers } = await ask(`explain?label=${encodeURIComponent(name)}`, entry.file);
      if (mine !== asked) return;
      const image = imageOf(URL.createObjectURL(blob), `Heat map for ${line(name)}`);
      image.addEventListener("load", () => URL.revokeObjectURL(image.src));
      picture.replaceChildren(image);
      note.replaceChildren("The brightest parts speak for it most. ", nameOf(name), `: ${percent(Number(headers.get("x-confidence")))}`);
    } catch (error) {
      if (mine !== asked) return;
      picture.replaceChildren();
      note.textContent = told(error);
    }
    picture.removeAttribute("aria-busy");
  }

  choice.addEventListener("change", show);
  show();
  return { content: [label, picture, note] };
}

/** The training pictures that the classifier takes for most alike. */
function nearest(entry) {
  const title = made("p", "", "Training photos that are most like it, the nearest first");
  const list = made("ol", "nearest");
  const note = made("p", "quiet", "Looking for them …");
  ask(`nearest?count=${NEAREST}`, entry.file).then(
    (found) => {
      note.remove();
      for (const { label, distance, thumbnail } of found.nearest) {
        const name = made("span", "", nameOf(label));
        const image = imageOf(thumbnail.startsWith("data:image/") ? thumbnail : "data:,", "");
        list.append(made("li", "", image, name, made("span", "quiet", `distance ${distance.toPrecision(2)}`)));
      }
    },
    (error) => (note.textContent = told(error)),
  );
  return { content: [title, list, note] };
}

/** Tell the server what a picture shows; it keeps the photo, and says so. */
function correction(entry, close, onSent) {
  const state = made("p", "quiet");
  state.setAttribute("role", "status");
  const [first, ...others] = entry.answer.top.map((each) => each.label);
  let isSending = false;

  async function send(label) {
    if (isSending) return;
    isSending = true;
    state.textContent = "Sending …";
    const given = { label, predicted: first, name: entry.file.name ?? entry.name };
    try {
      const { kept } = await ask(`feedback?${new URLSearchParams(given)}`, entry.file);
      Object.assign(entry, { corrected: label, kept });
      onSent();
      close();
    } catch (error) {
      state.textContent = told(error);
    }
    isSending = false;
  }

  const { whole, field } = classChooser([...others, first], send, close);
  const before = made("p", "quiet", "Sends this photo and its class to the server, which keeps both.");
  return { content: [before, whole, state], focused: field };
}

function told(error) {
  if (error instanceof Refused) return sentence(error.message);
  throw error;
}
