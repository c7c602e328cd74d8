"use strict";
// File and class names come from the user: insert them as text only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const panel = document.getElementById("cell");
  const UNSURE = 1;
  const UNLIKE = 2;

  function element(tag, className, text) {
    const created = document.createElement(tag);
    if (className) created.className = className;
    if (text !== undefined) created.textContent = text;
    return created;
  }

  function percent(share) {
    const digits = (100 * share).toFixed(1);
    if (digits === "100.0" && share < 1) return "over 99.9\u00a0%";
    return `${digits === "100.0" ? "100" : digits}\u00a0%`;
  }

  function thumbnail(name, content) {
    const short = name.slice(name.lastIndexOf("/") + 1);
    if (!content) return element("span", "blank", "no thumbnail");
    const image = element("img");
    image.width = image.height = 96;
    image.alt = short;
    image.src = `data:image/webp;base64,${content}`;
    return image;
  }

  function tile([name, , , confidence, flags, content]) {
    const item = element("li");
    item.dataset.name = name;
    item.append(thumbnail(name, content), element("span", "sure", `confidence ${percent(confidence)}`));
    if (flags & UNSURE) item.append(element("span", "flag", "unsure"));
    if (flags & UNLIKE) item.append(element("span", "flag", "unlike the training pictures"));
    const file = element("span", "file");
    file.title = name;
    file.append(element("bdi", "", name.slice(name.lastIndexOf("/") + 1)));
    item.append(file);
    return item;
  }

  function heading(label, predicted, count) {
    const title = element("h3");
    title.tabIndex = -1;
    title.append(`${count} ${count === 1 ? "picture" : "pictures"} of `);
    title.append(element("bdi", "", data.classes[label]));
    if (label === predicted) title.append(" predicted correctly");
    else title.append(" confused with ", element("bdi", "", data.classes[predicted]));
    if (count > 1) title.append(label === predicted ? ", least confident first" : ", most confident first");
    return title;
  }

  function show(label, predicted) {
    const pictures = data.pictures.filter((each) => each[1] === label && each[2] === predicted);
    const direction = label === predicted ? 1 : -1;
    pictures.sort((a, b) => direction * (a[3] - b[3]));
    const list = element("ul", "tiles");
    list.append(...pictures.map(tile));
    const title = heading(label, predicted, pictures.length);
    panel.replaceChildren(title, list);
    if (label === predicted && data.left_out) {
      const note = `${data.left_out} more correctly predicted pictures, of all classes, are listed in predictions.csv only.`;
      panel.append(element("p", "note", note));
    }
    for (const button of document.querySelectorAll("[data-cell]")) {
      button.setAttribute("aria-pressed", String(button.dataset.cell === `${label} ${predicted}`));
    }
    title.focus();
  }

  for (const button of document.querySelectorAll("[data-cell]")) {
    button.addEventListener("click", () => show(...button.dataset.cell.split(" ").map(Number)));
  }

  // Pages opened from disk may have no clipboard access; then select the command instead.
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

  // Open all details for printing.
  const closed = () => document.querySelectorAll("details:not([open])");
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...closed()];
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
  });

  document.documentElement.classList.add("scripted");
})();
