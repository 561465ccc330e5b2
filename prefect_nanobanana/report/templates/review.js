"use strict";
// Decisions on pictures: kept, rejected or undecided. They stay in this browser until they are handed over.
(() => {
  const find = (id) => document.getElementById(id);
  const about = find("review").dataset;
  const slot = "nanobanana-review:" + about.review;
  const cards = [...document.querySelectorAll("article")].filter((card) => card.querySelector("[data-image]"));
  const decide = find("decide"), why = find("why"), handed = find("handed");
  let shown = null; // the card and picture in the dialog
  let mine = {}; // by picture: { pick, note }
  try {
    mine = JSON.parse(localStorage.getItem(slot)) ?? {};
  } catch { /* some browsers give a page from a folder no storage: what is decided lasts as long as the page */ }

  const files = (card) => [...card.querySelectorAll(".files li")];
  const pictures = (card) => [...card.querySelectorAll(".matte .pic")];
  const before = new Map(cards.map((card) => [card, pictures(card).map((picture) => picture.dataset.pick)]));
  const noted = (file) => file.querySelector("[data-note]")?.textContent ?? "";
  const known = (card, n) => mine[files(card)[n]?.dataset.image] ?? {};
  const pick = (card, n) => known(card, n).pick ?? before.get(card)[n];

  function keep() {
    try {
      localStorage.setItem(slot, JSON.stringify(mine));
    } catch { /* as above */ }
  }
  function mark(card) {
    const its = pictures(card).map((picture, n) => {
      picture.dataset.pick = pick(card, n);
      return picture.dataset.pick;
    });
    card.dataset.pick = [...new Set(its)].join(" ");
  }
  function tell() {
    const counts = { undecided: 0, kept: 0, rejected: 0 };
    for (const card of cards) pictures(card).forEach((_, n) => { counts[pick(card, n)] += 1; });
    find("decided").textContent = `${counts.kept} kept, ${counts.rejected} rejected, ${counts.undecided} undecided.`;
    for (const [name, count] of Object.entries(counts)) {
      const chip = document.querySelector(`.chips [data-pick=${name}] span`);
      if (chip) chip.textContent = String(count);
    }
    document.dispatchEvent(new Event("decided"));
  }
  function set(card, n, what) {
    const file = files(card)[n];
    if (!file?.dataset.image) return;
    mine[file.dataset.image] = { ...known(card, n), pick: what };
    mark(card);
    handed.textContent = "";
  }
  function paint() {
    decide.hidden = !shown;
    if (!shown) return;
    const { card, n } = shown, now = pick(card, n);
    for (const button of decide.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.decide === now));
    }
    const note = known(card, n).note ?? noted(files(card)[n]);
    if (document.activeElement !== why) why.value = note;
    // The strip in the dialog is a copy of the card's pictures.
    document.querySelectorAll("#strip .pic").forEach((picture, m) => { picture.dataset.pick = pick(card, m); });
  }

  // In the dialog one picture is decided on, and the next that is undecided is shown.
  function decideShown(what) {
    const { card, n, choose } = shown;
    const list = cards.filter((each) => !each.hidden || each === card);
    set(card, n, what);
    keep();
    if (what !== "undecided") {
      const next = pictures(card).findIndex((_, m) => m > n && pick(card, m) === "undecided");
      if (next >= 0) choose(next);
      else {
        const following = list.slice(list.indexOf(card) + 1).find((each) => each.dataset.pick.includes("undecided"));
        if (following) document.dispatchEvent(new CustomEvent("open", { detail: following.id.slice(1) }));
      }
    }
    tell();
    paint();
  }
  // On the page all pictures of a prompt are, and the next prompt has the focus.
  function decideCard(card, what) {
    const list = cards.filter((each) => !each.hidden), next = list[list.indexOf(card) + 1] ?? list[list.indexOf(card) - 1];
    pictures(card).forEach((_, n) => set(card, n, what));
    keep();
    tell();
    if (what !== "undecided" || card.hidden) (next && !next.hidden ? next : card).querySelector("summary").focus();
  }
  document.addEventListener("picture", (event) => {
    const file = event.detail && files(event.detail.card)[event.detail.n];
    why.blur();
    shown = file?.dataset.image ? event.detail : null;
    paint();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, textarea")) return;
    if (event.repeat) return; // a key that is held decides once
    const what = { k: "kept", r: "rejected", u: "undecided" }[event.key.toLowerCase()];
    if (!what) return;
    const open = document.querySelector("dialog").open, card = event.target.closest?.("article");
    if (open && shown) decideShown(what);
    else if (!open && cards.includes(card)) decideCard(card, what);
    else return;
    event.preventDefault();
  });
  for (const button of decide.querySelectorAll("button")) {
    button.addEventListener("click", () => decideShown(button.dataset.decide));
  }
  why.addEventListener("input", () => {
    if (!shown) return;
    const id = files(shown.card)[shown.n].dataset.image;
    mine[id] = { ...mine[id], note: why.value };
    keep();
    handed.textContent = "";
  });
  why.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault(); // the dialog stays
    event.stopPropagation();
    find("title").focus();
  });

  // What is handed over: what was decided here, about the very bytes that were seen.
  function picks() {
    const images = [];
    for (const card of cards) {
      files(card).forEach((file, n) => {
        const own = known(card, n);
        if (own.pick === undefined && own.note === undefined) return;
        const [key, place] = file.dataset.image.split("-");
        const now = pick(card, n);
        images.push({
          prompt_key: key,
          place: Number(place),
          sha256: file.dataset.sha256,
          picked: now === "undecided" ? null : now === "kept",
          note: (own.note ?? noted(file)).trim() || null,
        });
      });
    }
    return JSON.stringify({ version: 1, batch: about.batch, review: about.review, images }, null, 1);
  }
  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([picks()], { type: "application/json" }));
    link.download = "picks.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
  async function handOver() {
    const sent = picks();
    find("hand-over").disabled = true;
    handed.textContent = "Handing over ...";
    let problem = "";
    try {
      const answer = await fetch(about.address, { method: "PUT", body: sent, headers: JSON.parse(about.headers) });
      if (!answer.ok) problem = `the store answers ${answer.status}`;
    } catch {
      problem = "the store cannot be reached from this page";
    }
    if (Date.now() / 1000 > Number(about.until)) problem ||= "the time for it is over";
    find("hand-over").disabled = false;
    const notes = JSON.parse(sent).images.filter((image) => image.picked === null && image.note).length;
    const more = notes ? ` ${notes} notes on what is undecided are not taken over.` : "";
    if (!problem && sent !== picks()) problem = "something was decided meanwhile: hand over once more";
    handed.textContent = problem
      ? `Not handed over: ${problem}. Save picks.json, and paste what is in it into the form in Prefect.`
      : "Handed over. Now choose Resume on the run's page in Prefect's UI." + more;
  }
  find("download").addEventListener("click", () => {
    save();
    handed.textContent = "Saved. Paste what is in it into the form in Prefect.";
  });
  find("hand-over").addEventListener("click", handOver);
  find("hand-over").hidden = !about.address || !location.protocol.startsWith("http");

  for (const card of cards) mark(card);
  tell();
  // At first only what is undecided is shown; the gallery begins after this, and reads it.
  const left = cards.some((card) => card.dataset.pick.includes("undecided"));
  if (!location.hash && left) history.replaceState(null, "", "#pick=undecided");
  // What was decided on may be hidden once its picture is closed: the next has the focus then.
  addEventListener("popstate", () => setTimeout(() => {
    if (document.activeElement !== document.body) return;
    cards.find((card) => !card.hidden)?.querySelector("summary").focus();
  }));
})();
