// Pieces that several parts of the page are made of.

const SHOWN = 5; // classes with a bar; the others unfold

export const element = (id) => document.getElementById(id);
export const line = (text) => text.replace(/\s+/g, " ").trim();
export const sentence = (text) => text + (/[.?!]$/.test(text) ? "" : ".");

export function made(tag, className = "", ...content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...content);
  return node;
}

export function button(text, onClick, className = "") {
  const node = made("button", className, text);
  node.type = "button";
  node.addEventListener("click", onClick);
  return node;
}

/** A class; its name may be in any script, and hold anything. */
export function nameOf(name) {
  return made("bdi", "name", line(name) || "(no name)");
}

export function percent(share) {
  if (share > 0.999 && share < 1) return "> 99.9 %";
  if (share < 0.001 && share > 0) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

export function counted(count, noun, plural = `${noun}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? noun : plural}`;
}

/** What the classifier takes a picture for, and whether that can be relied on. */
export function verdict({ label, unsure, unlike }) {
  const top = made("p", unsure ? "top unsure" : "top");
  if (unsure) top.append(made("span", "doubt", "Not sure. Perhaps"));
  top.append(made("strong", "", nameOf(label)));
  if (!unlike) return [top];
  return [top, made("p", "unlike", "Unlike the photos it learned from, so it may be none of its classes.")];
}

/** Bars for the most probable classes, the most probable one first; the others unfold. */
export function bars(top) {
  const shown = [rows(top.slice(0, SHOWN))];
  const rest = top.slice(SHOWN);
  if (!rest.length) return shown;
  const all = made("details", "", made("summary", "", `All ${top.length.toLocaleString("en")} classes`));
  all.addEventListener("toggle", () => {
    if (all.open && all.children.length === 1) {
      const list = rows(rest);
      list.tabIndex = 0; // so that the keyboard scrolls it
      list.setAttribute("aria-label", "The other classes");
      all.append(list);
    }
  });
  return [...shown, all];
}

function rows(top) {
  const list = made("ul", "bars");
  for (const { label, confidence } of top) {
    const track = made("span", "track", made("span", "fill"));
    track.firstChild.style.width = `${100 * confidence}%`;
    track.setAttribute("aria-hidden", "true");
    list.append(made("li", "", nameOf(label), made("span", "share", percent(confidence)), track));
  }
  return list;
}
