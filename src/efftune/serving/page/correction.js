// "Wrong? It is …": a list of classes that typing filters, for the keyboard and for the hand.

import { line, made, nameOf } from "./parts.js";

let number = 0;

/**
 * A field with the list of classes below it.
 *
 * It is given the classes, the likely ones first, and what to do with the chosen one, or if none is.
 */
export function classChooser(classes, onChoice, onEscape) {
  const id = `classes-${++number}`;
  const field = made("input");
  const list = made("ul", "options");
  const nothing = made("p", "quiet", "No class has this name.");
  const label = made("label", "", "It is");
  let shown = [];
  let active = 0;

  label.htmlFor = field.id = `${id}-field`;
  list.id = id;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Classes");
  for (const [name, value] of Object.entries({
    type: "text",
    role: "combobox",
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "type to find a class",
    "aria-autocomplete": "list",
    "aria-expanded": "true",
    "aria-controls": id,
  })) {
    field.setAttribute(name, value);
  }

  function show() {
    const wanted = folded(field.value);
    const found = classes.filter((each) => folded(each).includes(wanted));
    const isExact = (each) => wanted && folded(each) === wanted;
    shown = [...found.filter(isExact), ...found.filter((each) => !isExact(each))];
    list.replaceChildren(...shown.map(optionOf));
    nothing.hidden = shown.length > 0;
    list.hidden = !shown.length;
    activate(0);
  }

  function optionOf(name, i) {
    const option = made("li", "", nameOf(name));
    option.id = `${id}-${i}`;
    option.setAttribute("role", "option");
    option.setAttribute("aria-selected", "false");
    option.addEventListener("click", () => onChoice(name));
    return option;
  }

  function activate(i) {
    list.children[active]?.setAttribute("aria-selected", "false");
    active = Math.max(0, Math.min(i, shown.length - 1));
    const option = list.children[active];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) field.setAttribute("aria-activedescendant", option.id);
    else field.removeAttribute("aria-activedescendant");
  }

  field.addEventListener("input", show);
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 };
    if (event.key in steps) activate(active + steps[event.key]);
    else if (event.key === "Enter" && shown.length) onChoice(shown[active]);
    else if (event.key === "Escape") onEscape();
    else return;
    event.preventDefault();
  });
  show();
  const hint = made("p", "quiet keys", "Arrow keys choose, Enter sends, Escape leaves it as it is.");
  const whole = made("div", "chooser", label, field, list, nothing, hint);
  return { whole, field };
}

/** A name as it is compared: without case and accents. */
const folded = (name) => line(name).normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
