// Who extended what: the forecast beside what the TPM saw, the first difference marked, and where PCRs moved since the machine
// last opened by itself.

const ROW_SIGN = { same: "✓", open: "~", later: "", different: "✗", missing: "✗", unexplained: "✗", unfit: "?" };
/** Kinds of rows that are differences. */
const BAD = ["different", "missing", "unexplained", "unfit"];
const ROW_WORD = {
  same: "as forecast",
  open: "declared open beforehand",
  later: "forecast; the outcome was clear before it",
  different: "another digest than forecast",
  missing: "forecast, and not measured",
  unexplained: "measured, and not forecast",
  unfit: "the files differ here, and the verdict says nothing of it",
};

/** How an event that moved a PCR differs from what the earlier boot measured. */
const MOVE_WORD = {
  changed: ({ row, was }, earlier) => (nameOf(row) === nameOf(was) ? `another digest than in ${earlier}`
    : `${earlier} measured ${nameOf(was)} instead`),
  added: (_, earlier) => `${earlier} did not measure this`,
  gone: ({ before }, earlier) => (before ? `${earlier} measured this here, and this boot did not`
    : `${earlier} measured this next, and this boot nothing more into this PCR`),
  elsewhere: (_, earlier) => `${earlier} measured this elsewhere in the order`,
  unseen: (_, earlier) => `the records of this boot and of ${earlier} show no difference`,
};

function digestCell(digest, whole) {
  if (!digest) return el("td", { class: "digest" }, "—");
  const hex = digest.slice(digest.indexOf(":") + 1);
  return el("td", { class: "digest", title: digest }, whole ? hex : hex.slice(0, 10));
}

/** What a row's event is, and the file or variable that it came from. */
function nameOf({ event }) {
  if (!event) return "something that no forecast explains";
  const from = originText(event.from);
  return from && from !== event.what ? `${event.what} (${from})` : event.what;
}

/** That a PCR moved with this event, and how. */
function moveNote(move, then, whole) {
  const digest = move.was && move.was.seen.digest;
  const hex = digest && digest.slice(digest.indexOf(":") + 1);
  const earlier = `boot ${then.number}`;
  return el("div", { class: "why move" }, `→ PCR ${move.pcr} moved here: ${MOVE_WORD[move.kind](move, earlier)}`,
    hex && [`; ${earlier} has `, el("span", { class: "digest", title: digest }, whole ? hex : hex.slice(0, 10))]);
}

/** A row for what the earlier boot measured there, and this one did not. */
function goneRow(move, then, whole) {
  const event = move.was.event || {};
  return el("tr", { class: "event moved-here gone", "data-moved": move.pcr, tabindex: "-1" },
    el("td", { class: "mark" }, "→", el("span", { class: "hidden" }, "moved here")),
    el("td", { class: "number" }, move.pcr), el("td", {}, event.stage || "?"),
    el("td", { class: "what" }, el("del", {}, event.what || "something that no forecast explains"), moveNote(move, then, whole)),
    el("td", { class: "from" }, originText(event.from)), digestCell(null), digestCell(null), el("td", {}));
}

function eventRow(row, bank, whole, { isFirst, move, then }) {
  const event = row.event || {};
  const open = event.certainty && event.certainty.open;
  const bad = BAD.includes(row.kind);
  const note = open ? `open: ${open}` : event.certainty === "measured" ? "measured without the disk" : null;
  const classes = ["event", bad ? "bad" : row.kind, isFirst && "first", move && "moved-here"].filter(Boolean).join(" ");
  return el("tr", { class: classes, id: isFirst ? "first-difference" : null, "data-moved": move && move.pcr, tabindex: move && "-1" },
    el("td", { class: "mark", title: ROW_WORD[row.kind] }, ROW_SIGN[row.kind], move && "→",
      el("span", { class: "hidden" }, ROW_WORD[row.kind])),
    el("td", { class: "number" }, row.event ? event.pcr : row.seen.pcr),
    el("td", {}, event.stage || "?"),
    el("td", { class: "what" }, event.what || "nothing in the forecast explains this",
      bad && el("div", { class: "why" }, isFirst ? "First difference: " : "", ROW_WORD[row.kind]),
      move && moveNote(move, then, whole)),
    el("td", { class: "from" }, originText(event.from), note && el("div", { class: "why" }, note)),
    digestCell(inBank(event.digests, bank), whole),
    digestCell(row.seen && row.seen.digest, whole),
    el("td", { class: "number" }, row.seen ? seconds(row.seen.at) : ""));
}

/** Where a loop was caught is chance, and so are its values. */
function valuesPart(boot, forecast, bank, whole) {
  if (boot.outcome === "restart-loop") return [el("h4", {}, `Values, ${bank}`), el("p", { class: "dim" }, "restarts: no values")];
  return [el("h4", {}, `Values when the root volume's turn came, ${bank}`), valueTable(boot, forecast, bank, whole)];
}

function valueTable(boot, forecast, bank, whole) {
  const seen = boot.pcrs[bank] || {};
  const told = (forecast.pcrs || {})[bank] || {};
  const guest = (boot.guest_pcrs || {})[bank] || {};
  const moved = new Set(boot.moved);
  const unsure = new Set((forecast.unmodelled || []).flatMap((one) => one.pcrs));
  const all = [...new Set([...Object.keys(seen), ...Object.keys(told)].map(Number))].sort((a, b) => a - b);
  const rows = all.map((pcr) => {
    const both = told[pcr] && seen[pcr];
    const differs = both && told[pcr] !== seen[pcr];
    const notes = [moved.has(pcr) && "moved since it last opened by itself", differs && "differs from the forecast",
      !both && "known on one side alone", unsure.has(pcr) && "declared unmodelled"].filter(Boolean);
    return el("tr", { class: differs ? "bad" : moved.has(pcr) ? "moved" : "" },
      el("td", { class: "mark" }, differs ? "✗" : moved.has(pcr) ? "→" : both ? "✓" : "·"), el("td", { class: "number" }, pcr),
      digestCell(told[pcr], whole), digestCell(seen[pcr], whole), digestCell(guest[pcr], whole),
      el("td", {}, notes.join("; ")));
  });
  return table("values", ["", "PCR", "forecast", "replayed from the TPM's record", "guest's own account", ""], rows);
}

/** A boot's forecast beside its record, out of its files. */
async function alignedOf(boot) {
  const [forecastText, tpmText] = await Promise.all([fileText(boot.forecast), fileText(boot.tpm)]);
  const forecast = JSON.parse(forecastText);
  return { forecast, ...alignBoot(boot, forecast, jsonLines(tpmText)) };
}

/** Where the boot's PCRs moved: `then` is the boot that they moved against, and `unknown` why the events cannot be told. */
async function movesOf(boot, scenario, aligned) {
  const then = baselineOf(scenario, boot);
  const without = (unknown) => ({ then, moves: [], unknown });
  if (!boot.moved.length) return without(null);
  if (!then) return without("no boot before this one opened by itself");
  if (!fits(boot, aligned.legs)) return without("this boot's recording is not the one that was judged");
  try {
    const earlier = await alignedOf(then);
    if (!fits(then, earlier.legs)) return without(`the recording of boot ${then.number} is not the one that was judged`);
    if (earlier.bank !== aligned.bank) return without(`boot ${then.number} was recorded in another bank, ${earlier.bank}`);
    return { then, moves: partings(boot, aligned, earlier), unknown: null };
  } catch (error) {
    return without(error.message || String(error));
  }
}

async function pcrPart({ boot }, scenario) {
  const aligned = await alignedOf(boot);
  const { forecast, bank, legs } = aligned;
  const moved = await movesOf(boot, scenario, aligned);
  const node = el("div", { class: "pcrs" });
  const state = { pcr: null, whole: false };
  const draw = () => keepingFocus(node, () => fill(node, pcrHead(boot, forecast, legs, state, draw), movedList(boot, scenario, moved),
    pcrLegs(aligned, moved, state), valuesPart(boot, forecast, bank, state.whole)));
  draw();
  return node;
}

/** Each PCR that moved, with a way to the event that moved it. */
function movedList(boot, scenario, { then, moves, unknown }) {
  if (!boot.moved.length) return null;
  const earlier = then && `boot ${then.number}`;
  const since = !then ? "since it last opened by itself"
    : ["since ", el("a", { href: `${addressOf(scenario, then)}/pcrs` }, earlier), ", the last before it that opened by itself"];
  if (unknown) {
    return el("p", { class: "notice warn" }, `→ PCR ${boot.moved.join(", ")} moved `, since,
      `. With which event cannot be told: ${unknown.replace(/\.$/, "")}.`);
  }
  const where = (move) => [movedLink(addressOf(scenario, boot), move.pcr, `PCR ${move.pcr}`), ` at ${nameOf(move.row || move.was)}`];
  const item = (move) => el("li", {}, move.kind === "unseen" ? `PCR ${move.pcr}` : where(move), `: ${MOVE_WORD[move.kind](move, earlier)}`);
  return el("div", { class: "moves" }, el("p", {}, "→ Moved ", since, ":"), el("ul", {}, moves.map(item)));
}

function pcrHead(boot, forecast, legs, state, draw) {
  const differences = (boot.alignment.mismatches || []).length;
  const open = Object.entries(boot.alignment.open || {});
  const pick = (pcr, label) => el("button", {
    type: "button", class: "pick", "aria-pressed": String(state.pcr === pcr), onclick: () => { state.pcr = pcr; draw(); },
  }, label);
  const used = [...new Set(forecast.legs.flatMap((leg) => leg.events.map((event) => event.pcr)))].sort((a, b) => a - b);
  const whole = el("input", { type: "checkbox" });
  whole.checked = state.whole;
  whole.addEventListener("change", () => { state.whole = whole.checked; draw(); });
  const jump = el("button", { type: "button", onclick: () => {
    state.pcr = null;
    draw();
    document.getElementById("first-difference")?.scrollIntoView({ block: "center" });
  } }, "To the first difference");
  return el("div", {},
    !fits(boot, legs) && el("p", { class: "notice bad" },
      "? The recording is not the one that was judged: it was cut off, or changed. What follows is not evidence."),
    el("p", { class: differences ? "notice bad" : "notice good" }, differences
      ? [`✗ ${differences} ${differences === 1 ? "event differs" : "events differ"} from the forecast. `, jump]
      : `✓ ${boot.alignment.matched} events measured as forecast${open.map(([why, n]) => `; ${n} open: ${why}`).join("")}.`),
    el("p", { class: "dim" }, "Forecast: ", boot.forecast_outcome || "nothing certain", ", ", forecast.because,
      ". Written before the power-on; SHA-256 of the file ", el("code", {}, boot.forecast_sha256.slice(0, 16)), "…"),
    (forecast.unmodelled || []).map((one) => el("p", { class: "notice warn" },
      `unmodelled: ${one.what} (${one.stage}): ${one.why}; PCR ${one.pcrs.join(", ")} may differ`)),
    el("div", { class: "picks", role: "group", "aria-label": "PCR" }, pick(null, "all"), used.map((pcr) =>
      pick(pcr, boot.moved.includes(pcr) ? `${pcr} →` : String(pcr))),
    el("label", { class: "whole-digests" }, whole, " whole digests")));
}

/** The rows of a leg, and between them what the earlier boot measured and this one did not. */
function withGone(rows, moves) {
  const shown = [...rows];
  for (const move of moves.filter(({ kind }) => kind === "gone").reverse()) {
    const last = move.after ? shown.indexOf(move.after) : shown.findLastIndex((row) => row.seen && row.seen.early);
    shown.splice(move.before ? shown.indexOf(move.before) : last + 1, 0, { gone: move });
  }
  return shown;
}

function pcrLegs({ bank, legs, last }, { then, moves }, state) {
  let found = false;
  const isShown = (pcr) => state.pcr === null || state.pcr === pcr;
  return legs.map((leg, number) => {
    const rows = [];
    const turn = el("tr", { class: "turn" }, el("td", { colspan: 8 }, "the root volume is opened here: the sealed key is tried"));
    for (const row of number === last ? withGone(leg.rows, moves) : leg.rows) {
      if (row.gone) {
        if (isShown(row.gone.pcr)) rows.push(goneRow(row.gone, then, state.whole));
        continue;
      }
      const bad = BAD.includes(row.kind);
      const isFirst = bad && !found;
      found = found || bad;
      if (row.event && row.number === leg.triedAfter) rows.push(turn);
      const pcr = row.event ? row.event.pcr : row.seen.pcr;
      const move = moves.find((one) => one.row === row);
      if (isShown(pcr)) rows.push(eventRow(row, bank, state.whole, { isFirst, move, then }));
    }
    // A prompt is the last that most boots come to.
    if (Number.isInteger(leg.triedAfter) && !rows.includes(turn)) rows.push(turn);
    const reset = number < legs.length - 1 ? ", which ends with a reset" : "";
    return [el("h4", {}, `Start ${number + 1} of the firmware${reset}`),
      table("events", ["", "PCR", "who", "what", "from", "forecast", "measured", "after"], rows)];
  });
}
