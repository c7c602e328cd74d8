// The pictures of this session, in the memory of this page only: answered, counted, saved as CSV.

import { cardOf, fill, previewOf } from "./card.js";
import { counted, element, sentence } from "./parts.js";
import { predict, refresh, Refused } from "./server.js";

const AT_ONCE = 3; // pictures on their way to the server

let entries = []; // the oldest first
let waiting = [];
let atWork = 0;

/** Ask the server about pictures: files, or named blobs. */
export function add(pictures) {
  const added = pictures.map(({ file, name }) => ({ file, name }));
  for (const entry of added) entry.card = cardOf(entry);
  entries.push(...added);
  waiting.push(...added);
  element("results").hidden = false;
  element("cards").prepend(...added.map((entry) => entry.card));
  document.body.classList.add("used"); // the place for more pictures becomes smaller
  summarise();
  refresh();
  while (atWork < AT_ONCE && waiting.length) work();
}

async function work() {
  atWork += 1;
  for (let entry; (entry = waiting.shift()); ) await answer(entry);
  atWork -= 1;
}

async function answer(entry) {
  try {
    const [found, preview] = await Promise.all([said(entry.file), previewOf(entry.file)]);
    Object.assign(entry, found, { preview });
  } catch (error) {
    entry.problem = `The page has failed. ${sentence(error.message)}`;
  }
  if (entry.isGone) {
    URL.revokeObjectURL(entry.preview);
    return;
  }
  fill(entry.card, entry, summarise);
  summarise();
}

async function said(file) {
  try {
    const [found, served] = await predict(file);
    return { answer: found, served };
  } catch (error) {
    if (error instanceof Refused) return { problem: sentence(error.message) };
    throw error;
  }
}

function summarise() {
  const count = (is) => entries.filter(is).length;
  const parts = [counted(entries.length, "picture")];
  for (const [number, word] of [
    [count((each) => !each.answer && !each.problem), "to go"],
    [count((each) => each.answer?.unsure), "unsure"],
    [count((each) => each.answer?.unlike), "unlike the training photos"],
    [count((each) => each.problem), "without an answer"],
    [count((each) => each.corrected !== undefined), "corrected"],
  ]) {
    if (number) parts.push(`${number.toLocaleString("en")} ${word}`);
  }
  element("summary").textContent = parts.join(" · ");
}

/** Forget all pictures. */
export function clear() {
  for (const entry of entries) {
    entry.isGone = true;
    if (entry.preview) URL.revokeObjectURL(entry.preview);
  }
  entries = [];
  waiting = [];
  element("cards").replaceChildren();
  element("results").hidden = true;
  document.body.classList.remove("used");
}

/** Download the answers as a table, a row for each picture. */
export function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function table() {
  const rows = entries.map(({ name, answer: found, corrected, problem }) => [
    name,
    found?.label,
    found?.confidence.toFixed(6),
    yesOrNo(found?.unsure),
    yesOrNo(found?.unlike),
    corrected,
    problem,
  ]);
  const header = ["path", "label", "confidence", "unsure", "unlike", "corrected_label", "problem"];
  return [header, ...rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
}

const yesOrNo = (flag) => (flag === true ? "yes" : flag === false ? "no" : "");

function cell(value = "") {
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}
