// The run at a glance: the verdict in a sentence, what it was made with, and what is shown of its rows.

const filter = { status: null, text: "" };

function overviewPage() {
  const all = RUN.scenarios.map((scenario, index) => ({ scenario, index }));
  const matrix = el("div", {});
  const draw = () => fill(matrix, matrixTable(all.filter(wanted)));
  draw();
  return el("div", {}, verdictHead(all), warnings(), attentionSection(all), restSections(all),
    el("section", {}, el("h2", {}, "Scenarios by image"), filters(all, draw), legend(), matrix), imagesSection());
}

function count(all, is) {
  return all.filter(({ scenario }) => statusName(scenario.status) === is).length;
}

function verdictHead(all) {
  const [failed, broken, interrupted, skipped, notReached, known] =
    ["failed", "infrastructure-error", "interrupted", "skipped", "not-reached", "known"].map((is) => count(all, is));
  const left = skipped + notReached + interrupted;
  const tone = failed ? "bad" : broken ? "infra" : left || known || !all.length ? "warn" : "good";
  const some = (number, words) => (number ? `${number} ${words}` : null);
  const passed = broken || failed ? some(count(all, "passed"), "passed") : null;
  const said = broken ? `${failed ? `${failed} failed, ` : ""}${broken} could not be judged: infrastructure`
    : failed ? `${failed} of ${all.length} rows failed`
    : left === all.length ? `Nothing was run${interrupted ? " to its end" : ""}`
    : left ? `All that ran${interrupted ? " to its end" : ""} came out as expected` : "Everything came out as expected";
  const sentence = [said, passed, some(interrupted, "interrupted"), some(notReached, "not reached"), some(skipped, "skipped"),
    some(known, "known to fail")].filter(Boolean).join("; ");
  const reused = all.filter(({ scenario }) => scenario.reused).length;
  const open = all.flatMap(({ scenario }) => bootsOf(scenario)).filter(({ boot, isAnswer }) => !isAnswer && boot.forecast_outcome === null).length;
  return el("header", { class: `verdict ${tone}` }, el("h1", {}, sentence),
    el("dl", { class: "facts" }, fact("run", RUN.run), fact("rows, a scenario on an image each", all.length), fact("boots", bootsWords()),
      open > 0 && fact("boots whose outcome was not forecast", open),
      reused > 0 && fact("verdicts of earlier runs", reused),
      fact("took", seconds(RUN.took_ms)), fact("host", RUN.host), fact("harness", RUN.harness)));
}

/** What stands between a row and its run, where a step is shared with a row of another run (results.rs has the same). */
const OF_RUN = ", run ";

/** How many boots this run made; what rows share with others, or have from earlier runs, was not booted once more. */
function bootsWords() {
  const counts = { booted: 0, shared: 0, earlier: 0 };
  for (const scenario of RUN.scenarios) {
    for (const { step, isAnswer } of bootsOf(scenario)) {
      const shared = step.shared_with || "";
      if (!isAnswer) counts[scenario.reused || shared.includes(OF_RUN) ? "earlier" : shared ? "shared" : "booted"] += 1;
    }
  }
  return [`${counts.booted} booted`, counts.shared > 0 && `${counts.shared} shared`,
    counts.earlier > 0 && `${counts.earlier} of earlier runs`].filter(Boolean).join(", ");
}

/** Package versions on each image, as far as the run tells them. */
function imagesSection() {
  const images = RUN.images || [];
  if (!images.length) return null;
  const columns = inOrderOfBoot(images.flatMap(({ versions }) => Object.keys(versions)));
  const rows = images.map(({ image, identity, versions }) => el("tr", {},
    el("th", { scope: "row" }, image, el("small", { class: "identity", title: identity }, shortIdentity(identity, image))),
    columns.map((what) => el("td", {}, versions[what] || "—"))));
  const ran = RUN.scenarios.filter(({ image_identity: identity }) => identity);
  const unknown = [...new Set(ran.filter((row) => !versionsOf(row)).map(({ image }) => image))];
  return el("section", {}, el("h2", {}, "On the images"), table("images", ["image", ...columns], rows),
    unknown.length > 0 && el("p", { class: "dim" }, `No versions are known of ${unknown.join(", ")}.`));
}

/** That rows which look alike are not of the same image, or not of the same build of the harness. */
function warnings() {
  const images = new Map();
  for (const { image, image_identity: identity } of RUN.scenarios) {
    if (!images.has(image)) images.set(image, new Map());
    if (identity) images.get(image).set(identity, (images.get(image).get(identity) || 0) + 1);
  }
  const several = [...images].filter(([, identities]) => differentImages(identities.keys()).length > 1);
  const told = several.map(([image, identities]) => {
    const rows = [...identities].map(([identity, number]) => `${identity} (${number} ${number === 1 ? "row" : "rows"})`);
    return `Not all rows of ${image} are of the same image: ${rows.join(", ")}`;
  });
  const builds = RUN.harness.split("; ");
  if (builds.length > 1) told.push(`These rows are of ${builds.length} builds of the harness: ${builds.join("; ")}`);
  return told.map((text) => el("p", { class: "notice warn" }, text));
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
