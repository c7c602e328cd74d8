"use strict";
// File and class names come from the user: insert them as text only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const displayNames = new Map(data.classes);
  const STEP = 50; // cards added at a time: each holds a list of all classes
  const list = document.getElementById("cards");
  const onlyUndecided = document.getElementById("open");
  const save = document.getElementById("save");
  const more = document.getElementById("more");
  let limit = STEP;
  let decisions = restore();

  // A decision is {decision, new_label}. Decisions in labels.csv take precedence over those stored in
  // the browser, unless the browser's were made later, with the same labels.csv at hand.
  function restore() {
    const saved = new Map(
      Object.entries(data.decided).map(([path, { decision, new_label }]) => [path, { decision, new_label }]),
    );
    try {
      const stored = JSON.parse(localStorage.getItem(data.key));
      if (!stored) return saved;
      const local = new Map(stored.decisions);
      return stored.labels === data.labels ? local : new Map([...local, ...saved]);
    } catch {
      return saved; // browsers may forbid storage to pages opened from disk
    }
  }

  function store() {
    try {
      const stored = { labels: data.labels, decisions: [...decisions] };
      localStorage.setItem(data.key, JSON.stringify(stored));
    } catch {
      // Without storage, decisions are lost on reload; saving to a file still works.
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
    blank.textContent = "no thumbnail";
    return blank;
  }

  function options(select, chosen) {
    const added = displayNames.has(chosen) ? [] : [[chosen, chosen]]; // labels.csv may add a class
    for (const [name, displayName] of [...data.classes, ...added]) {
      const option = new Option(displayName, name);
      option.selected = name === chosen;
      select.add(option);
    }
  }

  function card(each) {
    const item = document.getElementById("card").content.firstElementChild.cloneNode(true);
    const find = (selector) => item.querySelector(selector);
    item.dataset.path = each.path;
    find(".picture").append(picture(each));
    find(".file").title = each.shown;
    find(".file bdi").textContent = each.shown;
    find(".label").textContent = displayNames.get(each.label) ?? each.label;
    find(".suggested").textContent = displayNames.get(each.suggested) ?? each.suggested;
    find(".p-label").textContent = percent(each.p_label);
    find(".p-suggested").textContent = percent(each.p_suggested);
    find(".choices").setAttribute("aria-label", `Decision on ${each.shown}`);
    const select = find("select");
    select.setAttribute("aria-label", `New label of ${each.shown}`);
    options(select, decisions.get(each.path)?.new_label || each.suggested);
    select.addEventListener("change", () => decide(item, each, "relabel"));
    for (const decision of ["keep", "relabel", "drop"]) {
      find(`button.${decision}`).addEventListener("click", () => {
        const undo = decisions.get(each.path)?.decision === decision;
        decide(item, each, undo ? "" : decision);
      });
    }
    mark(item, each);
    return item;
  }

  function mark(item, each) {
    const decision = decisions.get(each.path)?.decision;
    for (const button of item.querySelectorAll(".choices button")) {
      button.setAttribute("aria-pressed", String(button.classList.contains(decision)));
    }
  }

  function decide(item, each, decision) {
    const select = item.querySelector("select");
    if (decision === "relabel" && select.value === each.label) decision = "keep";
    if (decision) {
      decisions.set(each.path, { decision, new_label: decision === "relabel" ? select.value : "" });
    } else {
      decisions.delete(each.path);
    }
    store();
    mark(item, each);
    if (onlyUndecided.checked && decision) {
      const next = item.nextElementSibling ?? item.previousElementSibling;
      const path = next?.dataset.path;
      draw();
      focusOn(path);
    } else {
      updateProgress();
    }
  }

  const findCard = (path) => [...list.children].find((each) => each.dataset.path === path);

  function focusOn(path) {
    findCard(path)?.focus();
  }

  function draw() {
    const rows = data.suspects.filter((each) => !onlyUndecided.checked || !isDecided(each));
    list.replaceChildren(...rows.slice(0, limit).map(card));
    if (list.firstElementChild) list.firstElementChild.tabIndex = 0;
    more.hidden = rows.length <= limit;
    const none = document.getElementById("none");
    none.hidden = rows.length > 0;
    none.textContent = data.suspects.length ? "All labels are decided." : "No label looks wrong.";
    updateProgress();
  }

  function updateProgress() {
    const done = data.suspects.filter(isDecided).length;
    document.getElementById("progress").value = `${done} of ${data.suspects.length} decided`;
    save.disabled = done + data.others.length === 0;
  }

  function step(from, direction) {
    const next = direction > 0 ? from.nextElementSibling : from.previousElementSibling;
    if (next) next.focus();
    else if (direction > 0 && !more.hidden) more.focus();
  }

  const KEYS = { k: "keep", r: "relabel", d: "drop", u: "" };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
    const item = event.target.closest(".card");
    const direction = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (direction) {
      const first = list.firstElementChild;
      if (item) step(item, direction);
      else if (event.target === document.body && first) first.focus();
      else return;
      event.preventDefault();
    } else if (item && event.key.toLowerCase() in KEYS) {
      const each = data.suspects.find((row) => row.path === item.dataset.path);
      const decision = KEYS[event.key.toLowerCase()];
      const next = item.nextElementSibling;
      decide(item, each, decision);
      if (decision && !onlyUndecided.checked && next) next.focus();
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
      "Saved to your downloads folder. See the next steps below.";
  });

  onlyUndecided.addEventListener("change", () => {
    limit = STEP;
    draw();
  });
  more.addEventListener("click", () => {
    const count = list.children.length;
    limit += STEP;
    draw();
    list.children[count]?.focus();
  });

  draw();
})();
