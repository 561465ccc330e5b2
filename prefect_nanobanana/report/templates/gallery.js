"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll("article")];
  const chips = [...document.querySelectorAll(".chips button")];
  const dialog = document.querySelector("dialog");
  const text = find("text"), large = find("large"), full = find("full"), note = find("note");
  const state = { status: "", pick: "", similar: "", q: "", p: "" };
  const groups = ["status", "pick", "similar"];
  const group = (chip) => groups.find((name) => name in chip.dataset);
  let words = null; // what each card is searched for, made when somebody searches
  let trying = null; // the full picture that is on its way
  document.documentElement.classList.add("js");

  const visible = () => cards.filter((card) => !card.hidden);
  const face = (card) => card.querySelector("summary");
  const narrow = matchMedia("(max-width: 40rem)").matches;
  const fold = (string) => string.normalize("NFKC").toLowerCase().replace(/\s+/g, " ").trim();
  const signed = /[?&](x-amz-signature|signature|sig)=/i.test(location.search);
  find("signed").hidden = !signed;
  if (narrow) find("cost").open = false; // the pictures come first

  // The address says what is shown, so that it can be linked, and Back closes what was opened.
  function read() {
    const said = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(state)) state[name] = said.get(name) ?? "";
    for (const name of groups) {
      if (!chips.some((chip) => group(chip) === name && chip.dataset[name] === state[name])) state[name] = "";
    }
    if (fold(text.value) !== fold(state.q)) text.value = state.q;
  }
  function go(changes, push = false) {
    Object.assign(state, changes);
    const said = new URLSearchParams(Object.entries(state).filter(([, value]) => value));
    try {
      if (push) {
        history.scrollRestoration = "manual"; // closing goes to the card looked at last, not where this began
        history.pushState({ opened: true }, "", "#" + said);
      }
      else history.replaceState(history.state, "", "#" + said);
    } catch { /* some browsers refuse many changes in a row; the page works on without */ }
    show();
  }
  function show() {
    filter();
    const card = state.p ? find("p" + state.p) : null;
    if (card) {
      fill(card);
      if (!dialog.open) dialog.showModal();
    } else if (dialog.open) {
      dialog.close();
    }
  }

  function filter() {
    const wanted = fold(state.q);
    if (wanted && !words) {
      words = new Map(cards.map((card) =>
        [card, fold([...card.querySelectorAll("[data-find]")].map((part) => part.textContent).join("\n"))]));
    }
    let shown = 0;
    for (const card of cards) {
      // While one is open, what was just decided on stays, so that one can go back to it.
      const picked = !state.pick || card.dataset.pick.split(" ").includes(state.pick) || (state.p !== "" && !card.hidden);
      const hit = (!state.status || card.dataset.status === state.status) && (!state.similar || card.dataset.similar === state.similar) && picked && (!wanted || words.get(card).includes(wanted));
      if (card.hidden === hit) card.hidden = !hit;
      shown += hit;
    }
    for (const chip of chips) chip.setAttribute("aria-pressed", String(chip.dataset[group(chip)] === state[group(chip)]));
    find("count").textContent = `${shown} of ${cards.length} shown`;
    find("empty").hidden = shown > 0 || !cards.length;
  }

  // The dialog: a copy of what the card holds, beside its picture.
  function fill(card) {
    const list = visible(), at = list.indexOf(card), moved = dialog.dataset.card !== card.id;
    find("title").textContent = "Prompt " + card.id.slice(1);
    find("place").textContent = at < 0 ? "" : `${at + 1} of ${list.length}`;
    find("previous").disabled = at <= 0;
    find("next").disabled = at < 0 || at === list.length - 1;
    if (!moved) return;
    dialog.dataset.card = card.id;
    dialog.dataset.status = card.dataset.status;
    const facts = card.querySelector(".facts").cloneNode(true);
    find("details").replaceChildren(facts);
    for (const part of facts.querySelectorAll("[data-copy]")) part.after(copier(part, part.dataset.copy));
    const prompt = facts.querySelector(".prompt");
    prompt.after(copier(prompt, "prompt"));
    for (const place of [find("details"), document.querySelector(".body")]) place.scrollTop = 0;
    const pictures = [...card.querySelectorAll(".pic")], files = [...facts.querySelectorAll(".files li")];
    dialog.classList.toggle("plain", !pictures.length);
    const strip = pictures.length < 2 ? [] : pictures.map((picture, n) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-label", `Picture ${n + 1} of ${pictures.length}`);
      button.append(picture.cloneNode(true));
      button.addEventListener("click", () => choose(n));
      return button;
    });
    find("strip").replaceChildren(...strip);
    function choose(n) {
      strip.forEach((button, m) => button.setAttribute("aria-pressed", String(m === n)));
      files.forEach((file, m) => file.classList.toggle("chosen", strip.length > 1 && m === n));
      enlarge(pictures[n], files[n], prompt.textContent);
      document.dispatchEvent(new CustomEvent("picture", { detail: { card, n, choose } }));
    }
    if (pictures.length) choose(0);
    else {
      enlarge(null);
      document.dispatchEvent(new CustomEvent("picture", { detail: null }));
    }
  }
  function enlarge(picture, file, prompt) {
    if (trying) trying.onload = trying.onerror = null;
    trying = null;
    note.textContent = "";
    full.removeAttribute("href");
    large.removeAttribute("src");
    if (!picture) return;
    // First the preview, at once; then the picture itself, if it can be had from here.
    const small = picture.querySelector("img"), link = file.querySelector("a");
    if (!small) { // a film, or another file that could not be checked: a link, never a picture
      note.textContent = `This file (${picture.textContent}) is not shown here, as it could not be checked. `;
      note.append((link ?? file.querySelector(".uri")).cloneNode(true));
      return;
    }
    large.alt = small.getAttribute("alt") || (prompt.length > 250 ? prompt.slice(0, 250) + "…" : prompt);
    large.width = small.getAttribute("width");
    large.height = small.getAttribute("height");
    if (small.src.startsWith("data:")) large.src = small.src;
    large.dataset.shows = "preview";
    const failed = () => {
      note.textContent = `${large.hasAttribute("src") ? "This is the preview. " : ""}The full picture ${why()}: ${file.querySelector(".uri").textContent}`;
      note.append(" ", copier(file.querySelector(".uri"), "address"));
    };
    if (!link) return failed();
    const image = trying = new Image();
    image.onload = () => {
      large.src = image.src;
      large.dataset.shows = "full";
      full.href = link.href;
    };
    image.onerror = failed;
    image.src = link.href;
  }
  function why() {
    if (signed) return "needs a presigned link of its own. It is at";
    if (location.protocol === "file:") return "is not beside this page: get the folder images/ too. It is at";
    return "cannot be loaded from here: it may need a link of its own. It is at";
  }
  function copier(part, what) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy " + what);
    button.addEventListener("click", async () => {
      button.textContent = (await copy(part)) ? "Copied" : "Selected: press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    return button;
  }
  async function copy(part) {
    try {
      await navigator.clipboard.writeText(part.textContent);
      return true;
    } catch { // plain http has no clipboard: select it, and try as it was done before
      getSelection().selectAllChildren(part);
      return document.execCommand("copy");
    }
  }
  function move(step) {
    const list = visible(), next = list[list.findIndex((card) => card.id === "p" + state.p) + step];
    if (next && dialog.open) go({ p: next.id.slice(1) });
  }

  function walk(event) {
    const list = visible(), at = list.findIndex((card) => face(card) === event.target);
    const across = getComputedStyle(document.querySelector("main")).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
    const next = { Home: list[0], End: list.at(-1) }[event.key] ?? list[at + steps[event.key]];
    if (at < 0 || !next) return;
    event.preventDefault();
    face(next).focus();
  }

  document.addEventListener("click", (event) => {
    const summary = event.target.closest?.("article summary");
    if (!summary) return;
    event.preventDefault();
    go({ p: summary.closest("article").id.slice(1) }, true);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("textarea")) return;
    if (dialog.open) {
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
        event.preventDefault();
        move(event.key === "ArrowLeft" ? -1 : 1);
      }
    } else if (event.target === text) {
      if (event.key !== "Enter" || !visible().length) return;
      event.preventDefault(); // or else the card gets this Enter, too
      face(visible()[0]).focus();
    } else if (event.key === "/") {
      event.preventDefault();
      text.focus();
      text.select();
    } else if (event.target.matches?.("article summary")) {
      walk(event);
    }
  });
  text.addEventListener("input", () => go({ q: text.value.trim() }));
  for (const chip of chips) chip.addEventListener("click", () => go({ [group(chip)]: chip.dataset[group(chip)] }));
  // For what else may be in the page: the decisions have changed, and a card is to be opened.
  document.addEventListener("decided", filter);
  document.addEventListener("open", (event) => go({ p: event.detail }));
  find("empty").querySelector("button").addEventListener("click", () => {
    text.value = "";
    go({ status: "", pick: "", similar: "", q: "" });
    text.focus();
  });
  find("previous").addEventListener("click", () => move(-1));
  find("next").addEventListener("click", () => move(1));
  find("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    const card = find(dialog.dataset.card);
    delete dialog.dataset.card;
    enlarge(null);
    if (state.p) {
      state.p = "";
      if (history.state?.opened) history.back();
      else go({ p: "" });
    }
    const back = card && !card.hidden ? face(card) : text;
    back.focus();
    back.scrollIntoView({ block: "nearest" });
  });
  for (const event of ["popstate", "hashchange"]) addEventListener(event, () => {
    read();
    show();
    if (!dialog.open) history.scrollRestoration = "auto";
  });

  // A picture that cannot be had is said in words; some may have failed before this began.
  const lost = (image) => image.parentElement.classList.add("lost");
  document.addEventListener("error", (event) => { if (event.target.matches?.(".pic img")) lost(event.target); }, true);
  for (const image of document.querySelectorAll(".pic img")) {
    if (!image.getAttribute("src").startsWith("data:") && image.complete && !image.naturalWidth) lost(image);
  }
  read();
  show();
})();
