// The matrix of scenarios by image and host: a cell a row, with its boots.

/** Rows are scenarios, columns images on hosts. */
function matrixTable(shown) {
  if (!shown.length) return el("p", { class: "dim" }, "No row is like that.");
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
  const node = table(`matrix ${fits}`, heads, body);
  places.forEach((one, i) => {
    const identity = identityOf(RUN.scenarios.filter((scenario) => place(scenario) === one));
    if (identity) node.querySelectorAll("thead th")[i + 1].append(identity);
  });
  return node;
}

/** Which image the rows of a column ran on, shortly; null where one of them does not tell. */
function identityOf(column) {
  const ran = column.filter(({ status, steps }) => status.is !== "skipped" && steps.length > 0);
  const all = differentImages(ran.map((scenario) => scenario.image_identity || null));
  if (!all.length || all.includes(null)) return null;
  const words = all.length > 1 ? `${all.length} images` : shortIdentity(all[0], column[0].image);
  return el("small", { class: "identity", title: all.join(", ") }, words);
}

/** Of hashes their beginnings; of anything else as much as a head takes. */
function shortIdentity(identity, image) {
  const rest = identity.startsWith(`${image}-`) ? identity.slice(image.length + 1) : identity;
  const hashes = /^([0-9a-f]{16})(?:-([0-9a-f]{16}))?(?:, content ([0-9a-f]{16}))?$/.exec(rest);
  if (hashes) return hashes.slice(1).filter(Boolean).map((hash) => hash.slice(0, 8)).join("-");
  return rest.length > 40 ? `${rest.slice(0, 40)}…` : rest;
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
    const words = `boot ${boot.number}: ${outcomeWord(boot)}; expected ${expectedWord(entry)}; forecast ${boot.forecast_outcome || "nothing certain"}`;
    const kind = outcomeKind(boot);
    return el("span", { class: `dot ${kind} ${isWrong(entry) ? "bad" : ""}`, title: words },
      el("span", { "aria-hidden": "true" }, OUTCOME_SIGN[kind]), el("span", { class: "hidden" }, `${words}. `));
  });
  const stop = stopOf(scenario);
  if (stop) strip.push(stopDot(stop));
  const whole = scenario.status.is === "skipped" ? scenario.status.reason : null;
  return el("a", { class: `cell ${tone}`, href: `#s/${index}`, title: whole, "data-move": "" },
    el("small", { class: "on" }, placeName(scenario)), badge(scenario.status),
    strip.length > 0 && el("span", { class: "strip" }, strip), agreement(scenario),
    cellEnd(scenario), provenance(scenario));
}

/** The step at which a row ended, on the line of its boots. */
function stopDot(step) {
  const { sign, word, tone } = statusOf(step.status);
  const words = `step ${step.number}, ${step.what}: ${word}`;
  return el("span", { class: `dot stop ${tone}`, title: words },
    el("span", { "aria-hidden": "true" }, sign), el("span", { class: "hidden" }, `${words}. `));
}

/** What a cell tells below its badge: what the row came to, or why it was skipped. Of one that was not reached the badge says it all. */
function cellEnd(scenario) {
  const { status } = scenario;
  if (isNotReached(status)) return null;
  const said = status.is === "skipped" ? shortReason(status.reason || "")
    : `${endOf(scenario) || ""} ${tookWords(scenario)}`;
  return el("span", { class: "dim" }, said);
}

/** That a verdict is an earlier run's, or that steps were done once for several rows. */
function provenance(scenario) {
  const shared = scenario.steps.filter((step) => step.shared_with).length;
  const mark = (sign, words, title) => el("span", { class: "mark-small", title }, el("b", { "aria-hidden": "true" }, sign), ` ${words}`);
  return [scenario.reused && mark("↺", "reused", `The verdict of run ${scenario.reused}, from the same inputs`),
    shared > 0 && mark("⇄", `${shared} shared`, `${shared} of ${scenario.steps.length} steps were done once for several rows`)];
}

/** How many boots came to what was expected, and to what was forecast; where no boot tells why the row ended, the step at which
    it did. What was not judged counts for neither. */
function agreement(scenario) {
  const entries = bootsOf(scenario);
  const ended = scenario.status.is === "passed" ? null : endedAt(scenario);
  if (ended && !entries.some(isOff)) {
    return el("span", { class: `account ${statusOf(ended.status).tone}`, title: ended.what }, endedWords(scenario));
  }
  const part = (label, isAs) => {
    const judged = entries.map(isAs).filter((held) => held !== null);
    const [held, all] = [judged.filter(Boolean).length, judged.length];
    const [tone, sign] = held === all ? ["good", "✓"] : ["bad", "✗"];
    return { held, all, mark: all > 0 && el("span", { class: `account ${tone}` }, el("b", { "aria-hidden": "true" }, sign), `${label} ${held}/${all}`) };
  };
  const [expected, forecast] = [part("expected", isAsExpected), part("forecast", isAsForecast)];
  const alike = expected.held === expected.all && forecast.held === forecast.all && expected.all === forecast.all;
  const unclear = entries.length - expected.all;
  return [alike ? part("expected, forecast", isAsExpected).mark : [expected.mark, forecast.mark],
    unclear > 0 && el("span", { class: "account none" }, el("b", { "aria-hidden": "true" }, "·"), `${unclear} not judged`)];
}

function legend() {
  const one = (kind, words) => el("span", {}, el("b", { class: `dot ${kind}` }, OUTCOME_SIGN[kind]), ` ${words}`);
  return el("p", { class: "legend dim" }, "A boot each: ", one("open", "unlocked by itself"), one("ask", "asks for a passphrase"),
    one("key", "opened with a typed key"), one("shut", "stays shut"), one("torn", "the witnesses contradict each other"), one("unclear", "never became clear"),
    el("span", {}, el("b", { class: "dot shut bad" }, "■"), " ringed: not as expected, not as forecast, or its step failed after it"),
    el("span", {}, el("b", { class: "dot stop bad" }, "✗"), " no boot: the step at which the row ended"));
}
