// The TPM's record, what happened when, the checks, and QEMU's command line.

const SEALED = new Set(["Load", "PolicyPCR", "PolicyGetDigest", "Unseal", "CreatePrimary", "StartAuthSession",
  "PolicyAuthValue", "PolicyOR", "PolicyAuthorize"]);
const VIEWS = {
  "sealed key": (e) => SEALED.has(e.command),
  "extends": (e) => Boolean(e.detail && e.detail.extend),
  "refused": (e) => e.response.code !== 0,
  "all": () => true,
};

/** Answers after which the command is simply sent again: RETRY and PCR_CHANGED. */
const NOISE = new Set([0x922, 0x128]);

function detailText(detail) {
  if (!detail) return "";
  if (typeof detail === "string") return detail;
  const [kind, what] = Object.entries(detail)[0];
  switch (kind) {
    case "extend": return `PCR ${what.pcr} with ${what.digests.map((digest) => digest.slice(0, 17)).join(", ")}…`;
    case "select": return what.map((bank) => `PCR ${bank.pcrs.join(", ")} (${bankName(bank.algorithm)})`).join("; ");
    case "policy_digest": return `policy ${what.slice(0, 23)}…`;
    case "capability": return `capability ${what.capability}, from ${hex(what.property)}`;
    case "handle": return hex(what);
    default: return `${kind} ${typeof what === "object" ? JSON.stringify(what) : what}`;
  }
}

function bankName(algorithm) {
  return { 4: "sha1", 11: "sha256", 12: "sha384", 13: "sha512" }[algorithm] || hex(algorithm);
}

function hex(number) {
  return `0x${Number(number).toString(16)}`;
}

async function tpmPart({ boot }) {
  const exchanges = jsonLines(await fileText(boot.tpm));
  const node = el("div", {});
  const draw = (view) => {
    const shown = exchanges.filter(VIEWS[view]);
    const buttons = Object.keys(VIEWS).map((name) => el("button", {
      type: "button", class: "pick", "aria-pressed": String(name === view), onclick: () => draw(name),
    }, `${name} ${exchanges.filter(VIEWS[name]).length}`));
    const rows = shown.map((e) => el("tr", { class: NOISE.has(e.response.code) ? "dim" : e.response.code ? "bad" : "" },
      el("td", { class: "number" }, seconds(e.at_ms - boot.began_ms)), el("td", { class: "number" }, e.reset), el("td", {}, e.command),
      el("td", { class: "digest" }, (e.handles || []).map(hex).join(" ")), el("td", {}, detailText(e.detail)),
      el("td", {}, e.response.code ? `${hex(e.response.code)} ${e.response.words}${NOISE.has(e.response.code) ? ", sent again" : ""}` : "✓")));
    keepingFocus(node, () => fill(node, el("div", { class: "picks", role: "group", "aria-label": "Which exchanges" }, buttons),
      rows.length ? table("exchanges", ["after", "resets", "command", "handles", "", "answer"], rows)
        : el("p", { class: "dim" }, "None.")));
  };
  draw(exchanges.some(VIEWS["sealed key"]) ? "sealed key" : "all");
  return node;
}

function eventsPart({ boot }) {
  const length = Math.max(boot.clear_after_ms, ...boot.milestones.map((mark) => mark.at_ms), 1);
  const verdict = outcomeKind(boot) === "unclear" ? "the outcome never became clear" : `outcome clear: ${outcomeWord(boot)}`;
  const marks = [...boot.milestones, { at_ms: boot.clear_after_ms, what: verdict, end: true }];
  marks.sort((a, b) => a.at_ms - b.at_ms);
  const rows = marks.map((mark) => {
    const bar = el("i", {});
    bar.style.width = `${(100 * mark.at_ms) / length}%`;
    const qmp = mark.what.startsWith("QEMU: ");
    return el("tr", { class: mark.end ? "end" : qmp ? "dim" : "" }, el("td", { class: "number" }, seconds(mark.at_ms)),
      el("td", { class: "bar" }, bar), el("td", {}, qmp ? "QEMU (QMP)" : mark.end ? "verdict" : "guest"),
      el("td", {}, qmp ? mark.what.slice(6) : mark.what));
  });
  return table("milestones", ["after", "", "who", "what"], rows);
}

function checksPart({ step, boot }) {
  // Where it never became clear what the boot comes to, there was nothing to agree with.
  const unclear = outcomeKind(boot) === "unclear";
  const witnesses = boot.witnesses.map((witness) => {
    const torn = boot.contradictions.find((one) => one.name === witness.name);
    const mark = unclear ? el("td", { class: "mark dim" }, "·") : el("td", { class: "mark" }, torn ? "✗" : "✓");
    return el("tr", { class: torn ? "bad" : "" }, mark, el("td", {}, witness.name),
      el("td", {}, witness.saw), el("td", {}, torn ? `disagrees: expected ${torn.expected}` : ""));
  });
  const lockout = boot.lockout_counter === null ? "not known" : boot.lockout_counter;
  return el("div", {}, el("h4", {}, "Witnesses"), table("witnesses", ["", "who", "saw", ""], witnesses),
    el("h4", {}, "Checks of this step"), checkTable(step),
    el("p", { class: "dim" }, `TPM's dictionary-attack counter afterwards: ${lockout}`));
}

function checkTable(step) {
  if (!step.checks.length) return el("p", { class: "dim" }, "Nothing was asserted.");
  return table("checks", ["", "what", "expected", "seen"], step.checks.map((check) =>
    el("tr", { class: check.held ? "" : "bad" }, el("td", { class: "mark" }, check.held ? "✓" : "✗"),
      el("td", {}, check.what), el("td", {}, check.expected), el("td", {}, check.seen))));
}

async function qemuPart({ boot }) {
  const lines = (await fileText(boot.command_line)).trimEnd().split("\n");
  const quoted = lines.map((word) => (/^[A-Za-z0-9_.,:=+/@%-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`));
  // An option and its value on one line.
  const shown = [];
  for (const word of quoted) {
    const last = shown[shown.length - 1];
    if (last !== undefined && /^-[a-z0-9-]+$/.test(last) && !word.startsWith("-")) shown[shown.length - 1] = `${last} ${word}`;
    else shown.push(word);
  }
  const command = shown.join(" \\\n  ");
  return el("div", {}, el("p", { class: "dim" }, copyButton(command), " as it was started; its sockets are gone with the run."),
    el("pre", { class: "command", tabindex: "0" }, command));
}
