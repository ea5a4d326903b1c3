// What somebody has to look at: rows that failed, each; what broke, by its reason; what is known to fail; what was not run.

/** So many failed rows are told with their facts; the others in a line each. */
const WITH_FACTS = 50;

function attentionSection(all) {
  const failed = all.filter(({ scenario }) => scenario.status.is === "failed");
  const broken = all.filter(({ scenario }) => statusName(scenario.status) === "infrastructure-error");
  const items = [failed.slice(0, WITH_FACTS).map(attentionItem), failed.slice(WITH_FACTS).map(briefItem),
    byReason(broken).map(([reason, entries]) => (entries.length > 1 ? reasonItem([reason, entries]) : attentionItem(entries[0])))];
  return failed.length + broken.length > 0
    && el("section", {}, el("h2", {}, "Needs attention"), el("ul", { class: "attention" }, items));
}

/** What nobody has to act on now: what is known to fail stays in sight, since it ends some day. */
function restSections(all) {
  const known = all.filter(({ scenario }) => scenario.status.is === "known");
  const skipped = all.filter(({ scenario }) => scenario.status.is === "skipped");
  const interrupted = all.filter(({ scenario }) => isInterrupted(scenario.status));
  const left = [...interrupted, ...skipped];
  const summary = [skipped.length > 0 && `${skipped.length} not run`, interrupted.length > 0 && `${interrupted.length} interrupted`];
  return [known.length > 0 && el("details", { class: "known", open: true }, el("summary", {}, `${known.length} known to fail`),
    el("ul", { class: "attention" }, known.map(knownItem))),
  left.length > 0 && el("details", { class: "known" }, el("summary", {}, summary.filter(Boolean).join(", ")),
    el("ul", { class: "attention" }, byReason(left).map(reasonItem)))];
}

function rowLink({ scenario, index }) {
  return el("a", { href: `#s/${index}` }, badge(scenario.status), " ", scenario.scenario, ` on ${placeName(scenario)}`);
}

/** What a row did not pass for: its step, facts, the most telling first, and what the console or a tool said last. */
function attentionItem(entry) {
  const { scenario, index } = entry;
  const account = ACCOUNTS[index] || { step: null, facts: [scenario.status.reason || ""], heard: [] };
  const wrong = bootsOf(scenario).findIndex(({ boot }) => (boot.alignment.mismatches || []).length > 0);
  const heard = account.heard.slice(-3).map((line) => line.trim()).join("\n");
  return el("li", { class: statusOf(scenario.status).tone }, rowLink(entry), account.step && el("p", { class: "dim" }, account.step),
    el("ul", { class: "account-facts" }, account.facts.slice(0, 4).map((text) => el("li", {}, firstLines(text, 3)))),
    heard && el("pre", { class: "heard" }, heard),
    wrong >= 0 && el("p", {}, el("a", { href: `#s/${index}/b/${wrong}/pcrs` }, "Show the first wrong event")),
    el("p", {}, el("code", {}, scenario.reproduce)));
}

function briefItem(entry) {
  const [fact] = (ACCOUNTS[entry.index] || { facts: [] }).facts;
  return el("li", { class: "bad" }, rowLink(entry), fact && ` ${firstLines(fact, 1)}`);
}

/** Rows by the reason for which they have no verdict, the most common first. */
function byReason(entries) {
  const reasons = new Map();
  for (const entry of entries) {
    const { status } = entry.scenario;
    const reason = isNotReached(status) ? "not reached: the run ended first" : ACCOUNTS[entry.index].common || "for no reason";
    reasons.set(reason, [...(reasons.get(reason) || []), entry]);
  }
  return [...reasons].sort((one, other) => other[1].length - one[1].length);
}

function reasonItem([reason, entries]) {
  const shown = entries.slice(0, 20).map((entry) => el("span", {}, rowLink(entry), " "));
  const { tone } = statusOf(entries[0].scenario.status);
  return el("li", { class: tone === "infra" ? tone : "warn" }, el("p", {}, `${entries.length}: ${firstLines(reason, 4)}`),
    el("p", {}, shown, entries.length > shown.length && `and ${entries.length - shown.length} more`));
}

function knownItem(entry) {
  const { reason, tracker, until } = entry.scenario.status.known;
  return el("li", { class: "warn" }, rowLink(entry), el("p", {}, `${reason} (${tracker}), expected until ${until}`));
}

function firstLines(text, lines) {
  const cut = text.split("\n").slice(0, lines).join("\n");
  return cut.length > 400 ? `${cut.slice(0, 400)}…` : cut;
}
