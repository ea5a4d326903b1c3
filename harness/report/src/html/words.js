// Words, signs and small pieces that several pages show. A sign never stands for colour alone, nor colour for a sign.

const STATUS = {
  "passed": { sign: "✓", word: "passed", tone: "good" },
  "failed": { sign: "✗", word: "failed", tone: "bad" },
  "known": { sign: "≈", word: "known to fail", tone: "warn" },
  "skipped": { sign: "–", word: "skipped", tone: "warn" },
  "not-reached": { sign: "…", word: "not reached", tone: "none" },
  "infrastructure-error": { sign: "!", word: "infrastructure error", tone: "infra" },
  "interrupted": { sign: "‖", word: "interrupted", tone: "warn" },
};

/** How the reason begins of a row whose turn the run did not come to. */
const NOT_REACHED = "not-reached: ";

function isNotReached(status) {
  return status.is === "skipped" && (status.reason || "").startsWith(NOT_REACHED);
}

/** Whether it was stopped because somebody asked the run to end (results.rs does the same). */
function isInterrupted(status) {
  const reason = status.reason || "";
  return status.is === "infrastructure-error" && !reason.includes("\n") && reason.split(": ").pop() === "interrupted";
}

/** Its name in `STATUS`: what was left out for a reason and what the run did not come to are told apart, and what broke and
    what was interrupted. */
function statusName(status) {
  return isNotReached(status) ? "not-reached" : isInterrupted(status) ? "interrupted" : status.is;
}

function statusOf(status) {
  return STATUS[statusName(status)] || { sign: "?", word: status.is, tone: "warn" };
}

function badge(status) {
  const { sign, word, tone } = statusOf(status);
  return el("span", { class: `badge ${tone}` }, el("b", { "aria-hidden": "true" }, sign), " ", word);
}

/** The word that a reason begins with, to look for, where it has one; else as much of it as a cell takes. */
function shortReason(reason) {
  const [word] = /^[a-z0-9-]+(?=: )/.exec(reason) || [];
  return word || (reason.length > 40 ? `${reason.slice(0, 40).trimEnd()}…` : reason);
}

function conclusionOf(scenario) {
  const conclusion = scenario.conclusion;
  if (!conclusion) return null;
  if (typeof conclusion === "string") return conclusion;
  const [word, rest] = Object.entries(conclusion)[0];
  return `${word} (${(rest.ways || []).join(", ")})`;
}

/** What a row came to in the end: its conclusion, or that its last boot left it locked. */
function endOf(scenario) {
  return conclusionOf(scenario) || (LOCKED.has(scenario) ? "locked" : null);
}

/** How long a row took, and what its steps took besides that were done once for it and another (results.rs has the same). */
function tookWords(scenario) {
  const shared = scenario.reused ? [] : scenario.steps.filter((step) => step.shared_with);
  const ms = shared.reduce((sum, step) => sum + step.took_ms, 0);
  return `${seconds(scenario.took_ms)}${ms > 0 ? ` + ${seconds(ms)} shared` : ""}`;
}

const OUTCOME = {
  "unlocked": "open",
  "unlocked-by-passphrase": "key",
  "unlocked-by-recovery-key": "key",
  "fallback-prompt": "ask",
  "no-prompt": "shut",
  "refused-by-firmware": "shut",
  "refused-by-shim": "shut",
  "emergency-shell": "shut",
  "no-boot-option": "shut",
  "crashed": "shut",
};
const OUTCOME_SIGN = { open: "●", key: "◐", ask: "○", shut: "■", torn: "⚡", unclear: "?" };

/** Without an outcome its witnesses contradict each other, or it never became clear and nobody contradicts. */
function outcomeKind(boot) {
  if (boot.outcome === null) return boot.contradictions.length ? "torn" : "unclear";
  return OUTCOME[boot.outcome] || "shut";
}

function outcomeWord(boot) {
  return boot.outcome || { torn: "contradiction", unclear: "unclear" }[outcomeKind(boot)];
}

function outcomeChip(boot) {
  const kind = outcomeKind(boot);
  return el("span", { class: `outcome ${kind}` }, el("b", { "aria-hidden": "true" }, OUTCOME_SIGN[kind]), " ",
    outcomeWord(boot));
}

/** One of the three accounts of a boot's end, with whether it agrees with what happened. */
function account(label, said, agrees) {
  const tone = agrees === null ? "none" : agrees ? "good" : "bad";
  const sign = agrees === null ? "·" : agrees ? "✓" : "✗";
  return el("span", { class: `account ${tone}` }, el("small", {}, label), el("b", { "aria-hidden": "true" }, sign),
    el("span", {}, said), agrees === false && el("span", { class: "hidden" }, " (not what happened)"));
}

/** What was expected of a boot. Of one that never became clear nothing was held against it. */
function expectedWord(entry) {
  return expectedOf(entry) || (outcomeKind(entry.boot) === "unclear" ? "not judged" : "nothing");
}

function accounts(entry) {
  const { boot, isAnswer: answered } = entry;
  const expected = expectedOf(entry);
  const unclear = outcomeKind(boot) === "unclear";
  const forecast = boot.forecast_outcome || "nothing certain";
  const events = (boot.alignment.mismatches || []).length;
  const measured = events ? `${events} of ${boot.alignment.matched + events} events differ`
    : `${boot.alignment.matched} events as forecast`;
  return [
    account("expected", expectedWord(entry), expected === null || unclear ? null : expected === boot.outcome),
    account("forecast", answered ? `${forecast}, then answered` : forecast,
      answered || boot.forecast_outcome === null || unclear ? null : boot.forecast_outcome === boot.outcome),
    account("measured", measured, events ? false : boot.alignment.matched > 0 ? true : null),
    hasFailed(entry) && !isOff(entry) && account("afterwards", brokenWords(entry.step), false),
  ];
}

/** What did not hold in a step. */
function brokenWords(step) {
  return step.checks.filter((check) => !check.held).map((check) => check.what).join(", ") || statusOf(step.status).word;
}

function originText(from) {
  if (!from) return "";
  if (typeof from === "string") return from === "partition-table" ? "the partition table" : from;
  const [kind, what] = Object.entries(from)[0];
  if (kind === "part") return `${what.file} (${what.part})`;
  if (kind === "variable") return `variable ${what}`;
  if (kind === "firmware") return `firmware (${what})`;
  return what;
}

function kindText(boot) {
  return boot.kind === "cold-start" ? "cold start" : boot.kind === "guest-reboot" ? "guest reboot" : boot.kind;
}

function failure(error) {
  return el("p", { class: "notice" }, error.message || String(error));
}
