"use strict";
// Names of files and classes are the user's: they reach the page as text only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const panel = document.getElementById("cell");
  const UNSURE = 1;
  const UNLIKE = 2;

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function percent(share) {
    const digits = (100 * share).toFixed(1);
    if (digits === "100.0" && share < 1) return "over 99.9\u00a0%";
    return `${digits === "100.0" ? "100" : digits}\u00a0%`;
  }

  function thumbnail(name, content) {
    const short = name.slice(name.lastIndexOf("/") + 1);
    if (!content) return element("span", "blank", "no picture kept");
    const image = element("img");
    image.width = image.height = 96;
    image.alt = short;
    image.src = `data:image/webp;base64,${content}`;
    return image;
  }

  function tile([name, , , confidence, flags, content]) {
    const item = element("li");
    item.dataset.name = name;
    item.append(thumbnail(name, content), element("span", "sure", `${percent(confidence)} sure`));
    if (flags & UNSURE) item.append(element("span", "flag", "unsure"));
    if (flags & UNLIKE) item.append(element("span", "flag", "unlike the training pictures"));
    const file = element("span", "file");
    file.title = name;
    file.append(element("bdi", "", name.slice(name.lastIndexOf("/") + 1)));
    item.append(file);
    return item;
  }

  function heading(label, answer, count) {
    const made = element("h3");
    made.tabIndex = -1;
    made.append(`${count} ${count === 1 ? "picture" : "pictures"} of `);
    made.append(element("bdi", "", data.classes[label]));
    if (label === answer) made.append(", correct");
    else made.append(", predicted as ", element("bdi", "", data.classes[answer]));
    if (count > 1) made.append(label === answer ? ", least confident first" : ", most confident first");
    return made;
  }

  function show(label, answer) {
    const found = data.pictures.filter((each) => each[1] === label && each[2] === answer);
    const direction = label === answer ? 1 : -1;
    found.sort((one, other) => direction * (one[3] - other[3]));
    const list = element("ul", "tiles");
    list.append(...found.map(tile));
    const title = heading(label, answer, found.length);
    panel.replaceChildren(title, list);
    if (label === answer && data.left_out) {
      const others = `${data.left_out} more correctly classified pictures, of all classes, are listed in predictions.csv only.`;
      panel.append(element("p", "note", others));
    }
    for (const button of document.querySelectorAll("[data-cell]")) {
      button.setAttribute("aria-pressed", String(button.dataset.cell === `${label} ${answer}`));
    }
    title.focus();
  }

  for (const button of document.querySelectorAll("[data-cell]")) {
    button.addEventListener("click", () => show(...button.dataset.cell.split(" ").map(Number)));
  }

  // A page opened from a disk may not be allowed the clipboard: then the command is selected.
  async function copy(code, button) {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }

  for (const block of document.querySelectorAll("pre.command")) {
    const button = element("button", "copy", "Copy");
    button.type = "button";
    button.addEventListener("click", () => copy(block.querySelector("code"), button));
    block.classList.add("copied");
    block.append(button);
  }

  // On paper nothing can be opened.
  const folded = () => document.querySelectorAll("details:not([open])");
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...folded()];
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
  });

  document.documentElement.classList.add("scripted");
})();
