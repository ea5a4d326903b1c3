// One row: what its scenario is for, what was done, and its boots on a line.

function scenarioPage(scenario, index, bootIndex, part) {
  const entries = bootsOf(scenario);
  const current = bootIndex === null ? null : entries[bootIndex];
  const { tone } = statusOf(scenario.status);
  const page = el("div", { class: "scenario-page" },
    el("header", { class: `scenario-head ${tone}` },
      el("h1", {}, badge(scenario.status), " ", scenario.scenario, el("small", {}, ` on ${placeName(scenario)}`)),
      el("p", { class: "title" }, scenario.title),
      el("p", { class: "dim" }, scenario.why),
      scenario.status.known && el("p", { class: "notice warn" },
        `≈ Known until ${scenario.status.known.until}: ${scenario.status.known.reason} (${scenario.status.known.tracker})`),
      scenario.status.reason && el("pre", { class: `reason ${tone}` }, scenario.status.reason),
      el("dl", { class: "facts" },
        fact("in the end", endWords(scenario)), fact("took", tookWords(scenario)),
        fact("host", hostOf(scenario)), scenario.image_identity && fact("image", scenario.image_identity),
        versionsOf(scenario) && fact("on it", versionsOf(scenario)), scenario.kept && fact("kept in", scenario.kept),
        scenario.reused && fact("verdict", `of run ${scenario.reused}, from the same inputs`),
        fact("again", el("code", {}, scenario.reproduce), " ", copyButton(scenario.reproduce)))),
    entries.length > 0 && lane(scenario, index, entries, bootIndex));
  if (current) page.append(bootPage(scenario, current, part));
  page.append(el("h3", {}, "Steps"), el("ol", { class: "steps" }, scenario.steps.map((step) => stepItem(step, entries, index))));
  return page;
}

function endWords(scenario) {
  if (scenario.status.is !== "passed" && endedAt(scenario)) return `it ${endedWords(scenario)}`;
  if (scenario.status.is !== "passed") return conclusionOf(scenario) || "it did not come to an end";
  return conclusionOf(scenario) || (endOf(scenario) ? "its last boot left it locked" : "nothing was booted");
}

function fact(name, ...value) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value));
}

/** The whole scenario on one line: every step as long as it took, the boots to be opened. */
function lane(scenario, index, entries, chosen) {
  const total = Math.max(1, scenario.steps.reduce((sum, step) => sum + step.took_ms, 0));
  const reached = scenario.steps.filter(({ status }) => !isNotReached(status));
  const bar = el("div", { class: "lane", "aria-hidden": "true" }, reached.map((step) => {
    const boot = step.boots[step.boots.length - 1];
    const failed = step.status.is !== "passed" ? "bad" : "";
    const node = el("i", { class: `${boot ? outcomeKind(boot) : "work"} ${failed}`,
      title: `${step.number} ${step.what}, ${seconds(step.took_ms)}` });
    node.style.flexGrow = String(Math.max(step.took_ms / total, 0.004));
    return node;
  }));
  const cards = entries.map((entry, i) => el("a", {
    class: `card ${isWrong(entry) ? "bad" : ""}`, href: `#s/${index}/b/${i}`, "data-move": "", "aria-current": i === chosen ? "true" : null,
  }, el("span", { class: "card-head" }, el("small", {}, `boot ${entry.boot.number}, ${kindText(entry.boot)}`),
    el("small", {}, seconds(entry.boot.clear_after_ms))), outcomeChip(entry.boot), accounts(entry), movedNote(entry.boot)));
  const stop = stopOf(scenario);
  return el("section", { "aria-label": "Boots" }, bar, el("div", { class: "cards" }, cards, stop && stopCard(stop)));
}

/** The step at which the row ended, after its boots. */
function stopCard(step) {
  const { sign, word, tone } = statusOf(step.status);
  return el("div", { class: `card stop ${tone}` }, el("span", { class: "card-head" }, el("small", {}, `step ${step.number}`),
    el("small", {}, seconds(step.took_ms))), el("b", {}, `${sign} ${word}`), el("span", {}, step.what));
}

function stepItem(step, entries, index) {
  const { sign, word, tone } = statusOf(step.status);
  if (isNotReached(step.status)) {
    return el("li", { class: "dim" }, el("div", { class: "step" }, el("b", { class: `sign ${tone}` }, sign),
      el("span", { class: "number" }, step.number), el("span", { class: "said" }, step.what), el("span", { class: "took" }, word)));
  }
  const broken = step.checks.filter((check) => !check.held);
  const boots = entries.map((entry, i) => [entry, i]).filter(([entry]) => entry.step === step)
    .map(([entry, i]) => el("a", { class: "to-boot", href: `#s/${index}/b/${i}` }, outcomeChip(entry.boot)));
  const head = [el("b", { class: `sign ${tone}`, title: word }, sign, el("span", { class: "hidden" }, ` ${word}`)),
    el("span", { class: "number" }, step.number), el("span", { class: "said" }, step.what, " ", boots,
      step.shared_with && el("small", { class: "dim" }, ` ⇄ done once for this and ${step.shared_with}`)),
    el("span", { class: "number took" }, seconds(step.took_ms))];
  const item = el("li", {}, el("div", { class: "step" }, head));
  if (step.status.reason) item.append(el("pre", { class: `reason ${tone}` }, step.status.reason));
  if (broken.length) item.append(checkTable({ checks: broken }));
  else if (step.checks.length) {
    const more = el("details", {}, el("summary", {}, step.checks.length === 1 ? "one check held" : `${step.checks.length} checks held`));
    more.addEventListener("toggle", () => { if (more.children.length < 2) more.append(checkTable(step)); });
    item.append(more);
  }
  return item;
}
