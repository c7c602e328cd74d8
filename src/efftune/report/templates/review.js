"use strict";
// Names of files and classes are the user's: they reach the page as text only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const classShown = new Map(data.classes);
  const STEP = 50; // cards put into the page at a time: each has a list of all classes
  const list = document.getElementById("cards");
  const onlyOpen = document.getElementById("open");
  const save = document.getElementById("save");
  const more = document.getElementById("more");
  let limit = STEP;
  let decisions = restored();

  // A decision is {decision, new_label}. Those of labels.csv hold, unless that very file was at hand
  // when the browser kept others later.
  function restored() {
    const saved = new Map(
      Object.entries(data.decided).map(([path, { decision, new_label }]) => [path, { decision, new_label }]),
    );
    try {
      const kept = JSON.parse(localStorage.getItem(data.key));
      if (!kept) return saved;
      const own = new Map(kept.decisions);
      return kept.labels === data.labels ? own : new Map([...own, ...saved]);
    } catch {
      return saved; // a browser may forbid storage to pages opened from a disk
    }
  }

  function remember() {
    try {
      const kept = { labels: data.labels, decisions: [...decisions] };
      localStorage.setItem(data.key, JSON.stringify(kept));
    } catch {
      // Then nothing is kept but in this page; saving works all the same.
    }
  }

  const isDecided = (each) => decisions.has(each.path);

  function percent(share) {
    return `${(100 * share).toFixed(1)}\u00a0%`;
  }

  function picture(each) {
    if (each.thumbnail) {
      const image = document.createElement("img");
      image.width = image.height = 96;
      image.alt = "";
      image.src = `data:image/webp;base64,${each.thumbnail}`;
      return image;
    }
    const blank = document.createElement("span");
    blank.className = "blank";
    blank.textContent = "no picture kept";
    return blank;
  }

  function options(select, chosen) {
    const known = classShown.has(chosen) ? [] : [[chosen, chosen]]; // labels.csv may bring a new class
    for (const [name, shown] of [...data.classes, ...known]) {
      const option = new Option(shown, name);
      option.selected = name === chosen;
      select.add(option);
    }
  }

  function card(each) {
    const made = document.getElementById("card").content.firstElementChild.cloneNode(true);
    const find = (selector) => made.querySelector(selector);
    made.dataset.path = each.path;
    find(".picture").append(picture(each));
    find(".file").title = each.shown;
    find(".file bdi").textContent = each.shown;
    find(".label").textContent = classShown.get(each.label) ?? each.label;
    find(".suggested").textContent = classShown.get(each.suggested) ?? each.suggested;
    find(".p-label").textContent = percent(each.p_label);
    find(".p-suggested").textContent = percent(each.p_suggested);
    find(".choices").setAttribute("aria-label", `What to do with ${each.shown}`);
    const select = find("select");
    select.setAttribute("aria-label", `New label of ${each.shown}`);
    options(select, decisions.get(each.path)?.new_label || each.suggested);
    select.addEventListener("change", () => decide(made, each, "relabel"));
    for (const decision of ["keep", "relabel", "drop"]) {
      find(`button.${decision}`).addEventListener("click", () => {
        const again = decisions.get(each.path)?.decision === decision;
        decide(made, each, again ? "" : decision);
      });
    }
    mark(made, each);
    return made;
  }

  function mark(made, each) {
    const decision = decisions.get(each.path)?.decision;
    for (const button of made.querySelectorAll(".choices button")) {
      button.setAttribute("aria-pressed", String(button.classList.contains(decision)));
    }
  }

  function decide(made, each, decision) {
    const select = made.querySelector("select");
    if (decision === "relabel" && select.value === each.label) decision = "keep";
    if (decision) {
      decisions.set(each.path, { decision, new_label: decision === "relabel" ? select.value : "" });
    } else {
      decisions.delete(each.path);
    }
    remember();
    mark(made, each);
    if (onlyOpen.checked && decision) {
      const next = made.nextElementSibling ?? made.previousElementSibling;
      const path = next?.dataset.path;
      draw();
      focusOn(path);
    } else {
      tell();
    }
  }

  const cardOf = (path) => [...list.children].find((each) => each.dataset.path === path);

  function focusOn(path) {
    cardOf(path)?.focus();
  }

  function draw() {
    const rows = data.suspects.filter((each) => !onlyOpen.checked || !isDecided(each));
    list.replaceChildren(...rows.slice(0, limit).map(card));
    if (list.firstElementChild) list.firstElementChild.tabIndex = 0;
    more.hidden = rows.length <= limit;
    const none = document.getElementById("none");
    none.hidden = rows.length > 0;
    none.textContent = data.suspects.length ? "All are decided." : "No label looks wrong.";
    tell();
  }

  function tell() {
    const done = data.suspects.filter(isDecided).length;
    document.getElementById("progress").value = `${done} of ${data.suspects.length} decided`;
    save.disabled = done + data.others.length === 0;
  }

  function step(from, way) {
    const next = way > 0 ? from.nextElementSibling : from.previousElementSibling;
    if (next) next.focus();
    else if (way > 0 && !more.hidden) more.focus();
  }

  const KEYS = { k: "keep", r: "relabel", d: "drop", u: "" };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
    const made = event.target.closest(".card");
    const way = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (way) {
      const first = list.firstElementChild;
      if (made) step(made, way);
      else if (event.target === document.body && first) first.focus();
      else return;
      event.preventDefault();
    } else if (made && event.key.toLowerCase() in KEYS) {
      const each = data.suspects.find((row) => row.path === made.dataset.path);
      const decision = KEYS[event.key.toLowerCase()];
      const after = made.nextElementSibling;
      decide(made, each, decision);
      if (decision && !onlyOpen.checked && after) after.focus();
      event.preventDefault();
    }
  });

  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  function table() {
    const rows = data.suspects.filter(isDecided).map((each) => {
      const { decision, new_label } = decisions.get(each.path);
      return [each.path, each.label, decision, new_label];
    });
    const others = data.others.map((row) => [row.path, row.label, row.decision, row.new_label]);
    const all = [["path", "label", "decision", "new_label"], ...rows, ...others];
    return all.map((row) => `${row.map(cell).join(",")}\n`).join("");
  }

  save.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
    link.download = "labels.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    document.getElementById("saved").textContent =
      "Saved among your downloads. Below is where to put it, and what to do then.";
  });

  onlyOpen.addEventListener("change", () => {
    limit = STEP;
    draw();
  });
  more.addEventListener("click", () => {
    const shown = list.children.length;
    limit += STEP;
    draw();
    list.children[shown]?.focus();
  });

  draw();
})();
