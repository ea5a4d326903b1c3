// The run at a glance: the verdict in a sentence, what needs attention, and the matrix of scenarios by image and host.

const filter = { status: null, text: "" };

function overviewPage() {
  const all = RUN.scenarios.map((scenario, index) => ({ scenario, index }));
  const matrix = el("div", {});
  const draw = () => fill(matrix, matrixTable(all.filter(wanted)));
  draw();
  const attention = all.filter(({ scenario }) => ["failed", "infrastructure-error"].includes(scenario.status.is));
  const known = all.filter(({ scenario }) => scenario.status.is === "known");
  const skipped = all.filter(({ scenario }) => scenario.status.is === "skipped");
  return el("div", {}, verdictHead(all), attention.length > 0 && el("section", {}, el("h2", {}, "Needs attention"),
    el("ul", { class: "attention" }, attention.slice(0, 50).map(attentionItem)),
    attention.length > 50 && el("p", { class: "dim" }, `and ${attention.length - 50} more below`)),
  known.length > 0 && el("details", { class: "known" }, el("summary", {}, `${known.length} known to fail`),
    el("ul", { class: "attention" }, known.map(knownItem))),
  skipped.length > 0 && el("details", { class: "known" }, el("summary", {}, `${skipped.length} not run`),
    el("ul", { class: "attention" }, byReason(skipped).map(skippedItem))),
  el("section", {}, el("h2", {}, "Scenarios"), filters(all, draw), legend(), matrix));
}

function count(all, is) {
  return all.filter(({ scenario }) => statusName(scenario.status) === is).length;
}

function verdictHead(all) {
  const [failed, broken, skipped, notReached, known] = ["failed", "infrastructure-error", "skipped", "not-reached", "known"]
    .map((is) => count(all, is));
  const left = skipped + notReached;
  const boots = all.reduce((sum, { scenario }) => sum + bootsOf(scenario).length, 0);
  const tone = broken ? "infra" : failed ? "bad" : left || !all.length ? "warn" : "good";
  const some = (number, words) => (number ? `${number} ${words}` : null);
  const passed = broken || failed ? some(count(all, "passed"), "passed") : null;
  const said = broken ? `${failed} failed, ${broken} could not be judged: infrastructure`
    : failed ? `${failed} of ${all.length} scenarios failed`
    : left === all.length ? "Nothing was run"
    : left ? "All that ran came out as expected" : "Everything came out as expected";
  const sentence = [said, passed, some(notReached, "not reached"), some(skipped, "skipped"), some(known, "known to fail")]
    .filter(Boolean).join("; ");
  const reused = all.filter(({ scenario }) => scenario.reused).length;
  const open = all.flatMap(({ scenario }) => bootsOf(scenario)).filter(({ boot, isAnswer }) => !isAnswer && boot.forecast_outcome === null).length;
  return el("header", { class: `verdict ${tone}` }, el("h1", {}, sentence),
    el("dl", { class: "facts" }, fact("run", RUN.run), fact("scenarios", all.length), fact("boots", boots),
      open > 0 && fact("boots whose outcome was not forecast", open),
      reused > 0 && fact("verdicts of earlier runs", reused),
      fact("took", seconds(RUN.took_ms)), fact("host", RUN.host), fact("harness", RUN.harness)));
}

function rowLink({ scenario, index }) {
  return el("a", { href: `#s/${index}` }, badge(scenario.status), " ", scenario.scenario, ` on ${placeName(scenario)}`);
}

/** What a row did not pass for: its step, and facts, the most telling first. */
function attentionItem(entry) {
  const { scenario, index } = entry;
  const account = ACCOUNTS[index] || { step: null, facts: [scenario.status.reason || ""] };
  const wrong = bootsOf(scenario).findIndex(({ boot }) => (boot.alignment.mismatches || []).length > 0);
  return el("li", {}, rowLink(entry), account.step && el("p", { class: "dim" }, account.step),
    el("ul", { class: "account-facts" }, account.facts.slice(0, 4).map((text) => el("li", {}, firstLines(text, 3)))),
    wrong >= 0 && el("p", {}, el("a", { href: `#s/${index}/b/${wrong}/pcrs` }, "Show the first wrong event")),
    el("p", {}, el("code", {}, scenario.reproduce)));
}

/** Rows by the reason for which they were not run, the most common first. */
function byReason(entries) {
  const reasons = new Map();
  for (const entry of entries) {
    const reason = isNotReached(entry.scenario.status) ? "not reached: the run ended first" : entry.scenario.status.reason || "for no reason";
    reasons.set(reason, [...(reasons.get(reason) || []), entry]);
  }
  return [...reasons].sort((one, other) => other[1].length - one[1].length);
}

function skippedItem([reason, entries]) {
  const shown = entries.slice(0, 20).map((entry) => el("span", {}, rowLink(entry), " "));
  return el("li", { class: "warn" }, el("p", {}, `${entries.length}: ${reason}`),
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

function wanted({ scenario }) {
  const text = `${scenario.scenario} ${scenario.title} ${scenario.image} ${hostOf(scenario)} ${scenario.status.reason || ""} ${bootsOf(scenario).map(({ boot }) => boot.outcome).join(" ")}`;
  return (!filter.status || statusName(scenario.status) === filter.status)
    && filter.text.toLowerCase().split(/\s+/).every((word) => text.toLowerCase().includes(word));
}

function filters(all, draw) {
  const search = el("input", { type: "search", id: "search", placeholder: "Search: name, image, outcome", "aria-label": "Search" });
  search.value = filter.text;
  search.addEventListener("input", () => { filter.text = search.value; draw(); });
  const buttons = [];
  const pick = (is, label, number) => {
    const button = el("button", { type: "button", class: "pick", "aria-pressed": String(filter.status === is) }, `${label} ${number}`);
    button.addEventListener("click", () => {
      filter.status = is;
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      draw();
    });
    buttons.push(button);
  };
  pick(null, "all", all.length);
  for (const [is, { sign, word }] of Object.entries(STATUS)) {
    if (count(all, is)) pick(is, `${sign} ${word}`, count(all, is));
  }
  return el("div", { class: "picks" }, buttons, search);
}

/** Rows are scenarios, columns images on hosts. */
function matrixTable(shown) {
  if (!shown.length) return el("p", { class: "dim" }, "No scenario is like that.");
  const place = (scenario) => `${scenario.image}, ${hostName(scenario)}`;
  const images = new Map(RUN.scenarios.map((scenario) => [place(scenario), scenario.image]));
  const places = [...images.keys()];
  const rows = new Map();
  for (const { scenario, index } of shown) {
    if (!rows.has(scenario.scenario)) rows.set(scenario.scenario, { title: scenario.title, cells: new Map() });
    const cells = rows.get(scenario.scenario).cells;
    cells.set(place(scenario), [...(cells.get(place(scenario)) || []), { scenario, index }]);
  }
  const body = [...rows].map(([name, { title, cells }]) => el("tr", {},
    el("th", { scope: "row" }, name, el("small", {}, title)), places.map((one) => el("td", {}, cells.has(one) ? cells.get(one).map(cell) : leftOut(name, images.get(one))))));
  const heads = ["scenario", ...places];
  // So many columns fit a usual window, and scroll with the page; more of them scroll in a box of their own.
  const fits = places.length <= 5 ? "few" : places.length <= 7 ? "some" : "";
  return table(`matrix ${fits}`, heads, body);
}

/** Why there is no such row, where its scenario says so. */
function leftOut(name, image) {
  const found = (RUN.left_out || []).find((one) => one.scenario === name && one.image === image);
  return found && !filter.status && el("span", { class: "left-out dim" }, `left out: ${found.why}`);
}

function cell({ scenario, index }) {
  const { tone } = statusOf(scenario.status);
  const strip = bootsOf(scenario).map((entry) => {
    const { boot } = entry;
    const expected = expectedOf(entry);
    const words = `boot ${boot.number}: ${outcomeWord(boot)}; expected ${expected || "nothing"}; forecast ${boot.forecast_outcome || "nothing certain"}`;
    const kind = outcomeKind(boot);
    return el("span", { class: `dot ${kind} ${isGood(entry) ? "" : "bad"}`, title: words },
      el("span", { "aria-hidden": "true" }, OUTCOME_SIGN[kind]), el("span", { class: "hidden" }, `${words}. `));
  });
  const whole = scenario.status.is === "skipped" ? scenario.status.reason : null;
  return el("a", { class: `cell ${tone}`, href: `#s/${index}`, title: whole, "data-move": "" },
    el("small", { class: "on" }, placeName(scenario)), badge(scenario.status),
    strip.length > 0 && [el("span", { class: "strip" }, strip), agreement(bootsOf(scenario))],
    cellEnd(scenario), provenance(scenario));
}

/** What a cell tells below its badge: what the row came to, or why it was skipped. Of one that was not reached the badge says it all. */
function cellEnd({ status, ...scenario }) {
  if (isNotReached(status)) return null;
  const said = status.is === "skipped" ? shortReason(status.reason || "")
    : `${conclusionOf(scenario) || ""} ${seconds(scenario.took_ms)}`;
  return el("span", { class: "dim" }, said);
}

/** That a verdict is an earlier run's, or that steps were done once for several rows. */
function provenance(scenario) {
  const shared = scenario.steps.filter((step) => step.shared_with).length;
  const mark = (sign, words, title) => el("span", { class: "mark-small", title }, el("b", { "aria-hidden": "true" }, sign), ` ${words}`);
  return [scenario.reused && mark("↺", "reused", `The verdict of run ${scenario.reused}, from the same inputs`),
    shared > 0 && mark("⇄", `${shared} shared`, `${shared} of ${scenario.steps.length} steps were done once for several rows`)];
}

/** How many boots came to what was expected, and to what was forecast. */
function agreement(entries) {
  const asExpected = entries.filter((entry) => [null, entry.boot.outcome].includes(expectedOf(entry)) && !entry.boot.contradictions.length);
  const asForecast = entries.filter(isAsForecast);
  const part = (label, some) => el("span", { class: `account ${some.length === entries.length ? "good" : "bad"}` },
    el("b", { "aria-hidden": "true" }, some.length === entries.length ? "✓" : "✗"), `${label} ${some.length}/${entries.length}`);
  return asExpected.length === entries.length && asForecast.length === entries.length ? part("expected, forecast", entries)
    : [part("expected", asExpected), part("forecast", asForecast)];
}

function legend() {
  const one = (kind, words) => el("span", {}, el("b", { class: `dot ${kind}` }, OUTCOME_SIGN[kind]), ` ${words}`);
  return el("p", { class: "legend dim" }, "A boot each: ", one("open", "unlocked by itself"), one("ask", "asks for a passphrase"),
    one("key", "opened with a typed key"), one("shut", "stays shut"), one("torn", "the witnesses contradict each other"), one("unclear", "never became clear"),
    el("span", {}, el("b", { class: "dot shut bad" }, "■"), " ringed: not as expected, or not as forecast"));
}
