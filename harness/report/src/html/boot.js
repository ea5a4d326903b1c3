// One boot: what it came to, and its parts, each made when it is first looked at.

const PARTS = [
  ["console", "Console", consolePart],
  ["pcrs", "PCRs", pcrPart],
  ["tpm", "TPM", tpmPart],
  ["events", "Events", eventsPart],
  ["checks", "Checks", checksPart],
  ["qemu", "QEMU", qemuPart],
];

function bootPage(scenario, entry, part) {
  const { step, boot } = entry;
  const chosen = PARTS.find(([name]) => name === part) || PARTS[0];
  const base = addressOf(scenario, boot);
  const panel = el("div", { class: "panel", role: "tabpanel", id: "panel", "aria-labelledby": `tab-${chosen[0]}` },
    el("p", { class: "dim" }, "Reading…"));
  const tabs = el("div", { class: "tabs", role: "tablist" }, PARTS.map(([name, label], i) => el("a", {
    role: "tab", id: `tab-${name}`, href: `${base}/${name}`, "aria-selected": String(name === chosen[0]),
    "aria-controls": "panel", title: `${label} (${i + 1})`,
  }, label)));
  tabs.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    const now = PARTS.indexOf(chosen);
    focusPart = true;
    location.hash = `${base}/${PARTS[(now + move + PARTS.length) % PARTS.length][0]}`;
  });
  Promise.resolve().then(() => chosen[2](entry, scenario)).then((node) => fill(panel, node), (error) => fill(panel, failure(error)))
    .then(showTarget);
  const until = outcomeKind(boot) === "unclear" ? "Watched for" : "Clear after";
  return el("article", { class: "boot-page" },
    el("header", { class: "boot-head" },
      el("h3", {}, `Boot ${boot.number}, ${kindText(boot)} `, outcomeChip(boot)),
      el("p", { class: "dim" }, `Step ${step.number}: ${step.what}. ${until} ${seconds(boot.clear_after_ms)}`,
        boot.reported_by && `; reported by ${boot.reported_by}`, boot.waiting_for_key && "; a screen waits for somebody", "."),
      el("div", { class: "accounts" }, accounts(entry), movedNote(boot, base)),
      el("p", { class: "dim files" }, "Files of the run: ", [boot.console, boot.tpm, boot.tpm_restarted, boot.forecast, boot.event_log, boot.command_line]
        .filter(Boolean).map((name) => [el("code", {}, name), " "])),
      boot.contradictions.map((one) => el("p", { class: "notice bad" },
        `✗ The ${one.name} witness disagrees: expected ${one.expected}, saw ${one.saw}.`))),
    tabs, panel);
}

/** Which PCRs moved. With the boot's address each leads to the event that moved it. */
function movedNote(boot, base) {
  const pcrs = boot.moved.map((pcr, i) => [i > 0 && ", ", base ? movedLink(base, pcr, pcr) : pcr]);
  return boot.moved.length > 0 && el("span", { class: "account moved" }, el("small", {}, "moved"),
    el("b", { "aria-hidden": "true" }, "→"), el("span", {}, "PCR ", pcrs));
}

function movedLink(base, pcr, ...words) {
  const href = `${base}/pcrs/${pcr}`;
  // Who is at this address already is led there once more.
  return el("a", { href, title: `Where PCR ${pcr} moved`, onclick: () => { if (location.hash === href) draw(); } }, words);
}

/** Brings into view what the address names in a part: the event that moved a PCR. */
function showTarget(panel) {
  const { pcr } = route();
  const row = pcr !== null && panel.querySelector(`[data-moved="${pcr}"]`);
  if (!row) return;
  row.scrollIntoView({ block: "center" });
  row.focus({ preventScroll: true });
}
