// What the page holds: the results, and the files beside them, packed until somebody looks.

function embedded(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

const RUN = embedded("run");
/** Of each row why it did not pass, or null; with what it has in `common` with all that say no more about a machine. */
const ACCOUNTS = embedded("accounts");
/** The rows that have no conclusion since they left their machine locked. */
const LOCKED = new Set(embedded("locked").map((index) => RUN.scenarios[index]));
const FILES = new Map(Object.entries(embedded("files")));
const unpacked = new Map();

/** The text of a file that the results name. Rejects with the reason when the report has none. */
function fileText(name) {
  const entry = FILES.get(name);
  if (typeof entry !== "number") {
    return Promise.reject(new Error(`${name} is not in this report: ${entry || "nothing names it"}.`));
  }
  if (!unpacked.has(entry)) {
    // Looking at a hundred boots keeps a few of them, not all.
    if (unpacked.size > 24) unpacked.delete(unpacked.keys().next().value);
    unpacked.set(entry, inflate(embedded(`file-${entry}`)));
  }
  return unpacked.get(entry);
}

async function inflate(base64) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser cannot unpack what was recorded; one of 2023 or later can.");
  }
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).text();
}

/** JSON lines; a line that cannot be read is left out, as a recording may have been cut off. */
function jsonLines(text) {
  const rows = [];
  for (const line of text.split("\n")) {
    try {
      if (line) rows.push(JSON.parse(line));
    } catch {
      continue;
    }
  }
  return rows;
}

/** The host of a row: its own, where the rows come from several. */
function hostOf(scenario) {
  return scenario.host || RUN.host;
}

const HOSTS = [...new Set(RUN.scenarios.map(hostOf))];

/** As much of it as tells it from the others: the accelerator, or all. */
function hostName(scenario) {
  const [whole, short] = [hostOf(scenario), (host) => host.split(",")[0]];
  return HOSTS.filter((host) => short(host) === short(whole)).length > 1 ? whole : short(whole);
}

/** The image of a row, and the host where that tells rows apart. */
function placeName(scenario) {
  return scenario.host ? `${scenario.image}, ${hostName(scenario)}` : scenario.image;
}

/** What stands between an image and its content, which an older run does not tell (diff.rs has the same). */
const CONTENT = ", content ";

/** Of the identities of images those that tell them apart, each once: one without its content is the same as one with it. */
function differentImages(identities) {
  const all = [...new Set(identities)];
  const told = all.filter((one) => one !== null && one.includes(CONTENT)).map((one) => one.slice(0, one.lastIndexOf(CONTENT)));
  const known = new Set(told);
  return all.filter((one) => !known.has(one));
}

/** What decides over outcomes, in the order of a boot. */
const DECIDING = ["shim", "grub", "stub", "kernel", "dracut", "systemd", "cryptsetup", "tpm2-tss"];

/** Names of what has a version in that order, others behind them. */
function inOrderOfBoot(names) {
  const place = (name) => (DECIDING.includes(name) ? DECIDING.indexOf(name) : DECIDING.length);
  return [...new Set(names)].sort((one, other) => place(one) - place(other));
}

/** The versions that are known of a row's image, in words; empty where none is. */
function versionsOf({ image, image_identity: identity }) {
  const { versions } = (RUN.images || []).find((one) => one.image === image && one.identity === identity) || { versions: {} };
  return inOrderOfBoot(Object.keys(versions)).map((what) => `${what} ${versions[what]}`).join(", ");
}

/** Every boot of a scenario with the step that made it, in order. One of the number before goes on with it: somebody answered. */
function bootsOf(scenario) {
  const all = scenario.steps.flatMap((step) => step.boots.map((boot, nth) => ({ step, boot, nth })));
  return all.map((entry, i) => ({ ...entry, isAnswer: i > 0 && all[i - 1].boot.number === entry.boot.number }));
}

/** Where a boot is in this page. */
function addressOf(scenario, boot) {
  return `#s/${RUN.scenarios.indexOf(scenario)}/b/${bootsOf(scenario).findIndex((entry) => entry.boot === boot)}`;
}

/** What was expected of a boot, told by the check of its outcome. A step's last record is the one it is about. */
function expectedOf({ step, nth }) {
  if (nth !== step.boots.length - 1) return null;
  const check = step.checks.find((check) => check.what === "outcome");
  return check ? check.expected : null;
}

/** Measured as forecast, and come to the outcome that was forecast, where the forecast tells one: of a prompt, not of what
    somebody types there. Null where that was not judged: it never became clear what the boot comes to. */
function isAsForecast({ boot, isAnswer }) {
  if ((boot.alignment.mismatches || []).length) return false;
  if (outcomeKind(boot) === "unclear") return null;
  return boot.forecast_outcome === null || isAnswer || boot.forecast_outcome === boot.outcome;
}

/** Come to what was expected, without a contradiction; null where that was not judged. */
function isAsExpected(entry) {
  if (outcomeKind(entry.boot) === "unclear") return null;
  const expected = expectedOf(entry);
  return entry.boot.contradictions.length === 0 && (expected === null || expected === entry.boot.outcome);
}

/** Whether it is not as expected, or not as forecast. */
function isOff(entry) {
  return isAsExpected(entry) === false || isAsForecast(entry) === false;
}

/** Whether its step failed: where the boot is not off, by what was asserted after its outcome. */
function hasFailed({ step, boot, nth }) {
  return outcomeKind(boot) !== "unclear" && nth === step.boots.length - 1 && ["failed", "known"].includes(step.status.is);
}

/** Whether it is ringed. */
function isWrong(entry) {
  return isOff(entry) || hasFailed(entry);
}

/** The step that a row did not get past. What comes after that one is not reached. */
function endedAt(scenario) {
  return scenario.steps.find(({ status }) => status.is !== "passed" && !isNotReached(status)) || null;
}

/** The step that a row did not get past, where no boot that is ringed shows it; or null. */
function stopOf(scenario) {
  const step = endedAt(scenario);
  return bootsOf(scenario).some((entry) => entry.step === step && isWrong(entry)) ? null : step;
}

/** Where a row ended, and of how many steps, where those that were not reached are told. */
function endedWords(scenario) {
  const [step, last] = [endedAt(scenario), scenario.steps[scenario.steps.length - 1]];
  return `ended at step ${step.number}${isNotReached(last.status) ? ` of ${last.number}` : ""}`;
}
