// The page: how pictures come to it, and what it says of the server.

import { prepareCamera } from "./camera.js";
import { add, clear, save } from "./history.js";
import { element, line, nameOf } from "./parts.js";
import { enter, watch } from "./server.js";

const MOST_NAMED = 12; // classes in the line below the title

// The server

const SAID = {
  loading: "The classifier is being loaded. Pictures wait for it.",
  gone: "The server does not answer. Is it still running? Pictures wait until it does.",
  token: "",
  ready: "",
};

watch((state, about) => {
  connection(SAID[state] ?? `${about} Trying again …`);
  element("door").hidden = state !== "token";
  element("start").hidden = state === "token";
  if (state === "token") {
    element("refusal").textContent = about ? "The server takes another token." : "";
    element("token").value = "";
    element("token").focus();
  }
  if (state === "ready") describe(about);
});

function connection(text) {
  if (element("connection").textContent !== text) element("connection").textContent = text;
  element("connection").hidden = !text;
}

element("door").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = element("token").value;
  if (/^[\x20-\x7e]+$/.test(token)) enter(token.trim());
  else element("refusal").textContent = "A token has no such characters.";
});

function describe({ name, classes, judged, feedback }) {
  const title = line(name);
  document.title = title;
  element("title").textContent = title;
  const rest = classes.length > MOST_NAMED ? ` and ${(classes.length - MOST_NAMED).toLocaleString("en")} more` : "";
  const named = classes.slice(0, MOST_NAMED).flatMap((each, i) => (i ? [", ", nameOf(each)] : [nameOf(each)]));
  element("classes").replaceChildren("Tells apart ", ...named, `${rest}.`);
  element("accuracy").textContent = judged ? accuracy(judged) : "";
  const keeps = feedback ? "which keeps those only that you correct" : "which does not keep them";
  element("keeps").textContent = `Pictures go to this server only, ${keeps}.`;
}

/** How often it is right, with the 95 % interval; pictures that it had seen copies of do not count, if others do. */
function accuracy({ test, test_without_leaks: clean, judged_by }) {
  const { accuracy: share, low, high } = clean || test;
  const [right, least, most] = [share, low, high].map((each) => (100 * each).toFixed(1));
  const held_out = clean ? "of test pictures without copies or relatives in an earlier split" : "of test pictures";
  const by = judged_by === "test pictures" ? held_out : "of pictures it was not trained with";
  return `Right for ${right} % ${by} (95 % interval ${least} to ${most} %).`;
}

// Pictures

function take(files) {
  const pictures = [...files].map((file) => ({ file, name: file.name || "pasted picture" }));
  if (!pictures.length) return;
  problem("");
  add(pictures);
}

function problem(text) {
  element("problem").textContent = text;
  element("problem").hidden = !text;
}

prepareCamera(problem);

element("files").addEventListener("change", ({ target }) => {
  take(target.files);
  target.value = ""; // so that the same file can be chosen again
});
element("save").addEventListener("click", save);
element("clear").addEventListener("click", () => {
  clear();
  element("files").focus();
});

addEventListener("paste", (event) => {
  const files = event.clipboardData?.files ?? [];
  if (!files.length) {
    if (event.target.matches?.("input")) return;
    problem("There is no picture on the clipboard. Copy a picture or a file, and paste again.");
    return;
  }
  event.preventDefault();
  take(files);
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
  const { files = [], items = [] } = event.dataTransfer ?? {};
  if ([...items].some((each) => each.webkitGetAsEntry?.()?.isDirectory)) {
    problem("A folder cannot be dropped here. Open it, and drop its pictures.");
  } else if (files.length) {
    take(files);
  } else {
    problem("That was not a file. Save the picture first, then drop its file here.");
  }
});
