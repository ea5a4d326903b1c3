// Who extended what: the forecast beside what the TPM saw, the first difference marked.

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

function digestCell(digest, whole) {
  if (!digest) return el("td", { class: "digest" }, "—");
  const hex = digest.slice(digest.indexOf(":") + 1);
  return el("td", { class: "digest", title: digest }, whole ? hex : hex.slice(0, 10));
}

function eventRow(row, bank, whole, isFirst) {
  const event = row.event || {};
  const open = event.certainty && event.certainty.open;
  const bad = BAD.includes(row.kind);
  const note = open ? `open: ${open}` : event.certainty === "measured" ? "measured without the disk" : null;
  return el("tr", { class: `event ${bad ? "bad" : row.kind}${isFirst ? " first" : ""}`, id: isFirst ? "first-difference" : null },
    el("td", { class: "mark", title: ROW_WORD[row.kind] }, ROW_SIGN[row.kind],
      el("span", { class: "hidden" }, ROW_WORD[row.kind])),
    el("td", { class: "number" }, row.event ? event.pcr : row.seen.pcr),
    el("td", {}, event.stage || "?"),
    el("td", { class: "what" }, event.what || "nothing in the forecast explains this",
      bad && el("div", { class: "why" }, isFirst ? "First difference: " : "", ROW_WORD[row.kind])),
    el("td", { class: "from" }, originText(event.from), note && el("div", { class: "why" }, note)),
    digestCell(inBank(event.digests, bank), whole),
    digestCell(row.seen && row.seen.digest, whole),
    el("td", { class: "number" }, row.seen ? seconds(row.seen.at) : ""));
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

async function pcrPart({ boot }) {
  const [forecastText, tpmText] = await Promise.all([fileText(boot.forecast), fileText(boot.tpm)]);
  const forecast = JSON.parse(forecastText);
  const { bank, legs } = alignBoot(boot, forecast, jsonLines(tpmText));
  const node = el("div", { class: "pcrs" });
  const state = { pcr: null, whole: false };
  const draw = () => keepingFocus(node, () => fill(node, pcrHead(boot, forecast, legs, state, draw), pcrLegs(bank, legs, state),
    el("h4", {}, `Values when the root volume's turn came, ${bank}`), valueTable(boot, forecast, bank, state.whole)));
  draw();
  return node;
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

function pcrLegs(bank, legs, state) {
  let found = false;
  return legs.map((leg, number) => {
    const rows = [];
    const turn = el("tr", { class: "turn" }, el("td", { colspan: 8 }, "the root volume is opened here: the sealed key is tried"));
    for (const row of leg.rows) {
      const bad = BAD.includes(row.kind);
      const isFirst = bad && !found;
      found = found || bad;
      if (row.event && row.number === leg.triedAfter) rows.push(turn);
      const pcr = row.event ? row.event.pcr : row.seen.pcr;
      if (state.pcr === null || state.pcr === pcr) rows.push(eventRow(row, bank, state.whole, isFirst));
    }
    // A prompt is the last that most boots come to.
    if (Number.isInteger(leg.triedAfter) && !rows.includes(turn)) rows.push(turn);
    const reset = number < legs.length - 1 ? ", which ends with a reset" : "";
    return [el("h4", {}, `Start ${number + 1} of the firmware${reset}`),
      table("events", ["", "PCR", "who", "what", "from", "forecast", "measured", "at"], rows)];
  });
}
