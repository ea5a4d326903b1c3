// Puts the forecast's events beside the TPM's, by the differences that the harness recorded, and one boot's beside another's by
// their digests. Nothing is judged here.

/** Which bank the boot was compared in. */
function bankOf(boot, forecast) {
  const known = Object.keys(boot.pcrs);
  return known[0] || Object.keys(forecast.pcrs || {})[0] || "sha256";
}

function inBank(digests, bank) {
  return (digests || []).find((digest) => digest.startsWith(`${bank}:`)) || null;
}

/** The commands that try a sealed key, Load and PolicyPCR: PCRs are compared as they were then (pcrs.rs does the same). */
const TRIES = new Set([0x157, 0x17f]);

/** The successful extends of a boot, which began so many milliseconds after the power-on, by leg: the machine's resets part
    them. PCR 10 and those above 15 are not forecast. `early` are those before a sealed key was tried. */
function extendsByLeg(exchanges, bank, began) {
  const legs = new Map();
  const tried = new Set();
  for (const exchange of exchanges) {
    if (!legs.has(exchange.reset)) legs.set(exchange.reset, []);
    if (TRIES.has(exchange.code)) tried.add(exchange.reset);
    const extend = exchange.detail && exchange.detail.extend;
    if (!extend || exchange.response.code !== 0 || extend.pcr === 10 || extend.pcr > 15) continue;
    const digest = inBank(extend.digests, bank);
    if (digest) legs.get(exchange.reset).push({ pcr: extend.pcr, digest, at: exchange.at_ms - began, early: !tried.has(exchange.reset) });
  }
  return [...legs.entries()].sort((a, b) => a[0] - b[0]).map(([, seen]) => seen);
}

/** Rows of one start of the firmware: `{ event, seen, kind }`, in order. */
function alignLeg(leg, seen, differences, bank) {
  const events = leg ? leg.events : [];
  const rows = [];
  const left = [...differences];
  let e = 0;
  let s = 0;
  while (e < events.length || s < seen.length || left.length) {
    const difference = left.length && left[0].index <= s ? left.shift() : null;
    const kind = difference ? difference.kind : null;
    if (kind === "missing") rows.push({ event: events[e++], seen: null, kind, difference });
    else if (kind === "unexplained") rows.push({ event: null, seen: seen[s++], kind, difference });
    else if (kind) rows.push({ event: events[e++], seen: seen[s++], kind, difference });
    else if (s < seen.length && e < events.length) rows.push({ event: events[e++], seen: seen[s++], kind: "same" });
    // The boot's outcome was clear before its last events.
    else if (e < events.length) rows.push({ event: events[e++], seen: null, kind: "later" });
    else if (s < seen.length) rows.push({ event: null, seen: seen[s++], kind: "unexplained" });
    else left.shift();
    const row = rows[rows.length - 1];
    if (row && row.event) row.number = e - 1;
    if (row && row.kind === "same") row.kind = kindOfPair(row, bank);
  }
  return rows;
}

/** What the harness found no difference in: the same, or declared open. Anything else is not what it looked at. */
function kindOfPair({ event, seen }, bank) {
  if (event.certainty && event.certainty.open) return "open";
  const digest = inBank(event.digests, bank);
  return event.pcr === seen.pcr && (!digest || digest === seen.digest) ? "same" : "unfit";
}

/** Whether the rows are those that the verdict counted: a recording may have been cut off, or changed. */
function fits(boot, legs) {
  const count = (kind) => legs.flatMap((leg) => leg.rows).filter((row) => row.kind === kind).length;
  const open = Object.values(boot.alignment.open || {}).reduce((sum, n) => sum + n, 0);
  return count("unfit") === 0 && count("same") === boot.alignment.matched && count("open") === open;
}

/** The forecast's leg of that number; those of a boot that goes on for ever come round again (align.rs does the same). */
function legOf(forecast, number) {
  const { legs, repeats_from: from } = forecast;
  if (number < legs.length || from === null || from === undefined || from >= legs.length) return legs[number];
  return legs[from + ((number - legs.length) % (legs.length - from))];
}

/** All rows of a boot, by leg, and which leg is the last that was measured. */
function alignBoot(boot, forecast, exchanges) {
  const bank = bankOf(boot, forecast);
  const seen = extendsByLeg(exchanges, bank, boot.began_ms);
  const legs = [];
  for (let number = 0; number < Math.max(forecast.legs.length, seen.length); number += 1) {
    const differences = (boot.alignment.mismatches || []).filter((difference) => difference.leg === number);
    const leg = legOf(forecast, number);
    legs.push({ rows: alignLeg(leg, seen[number] || [], differences, bank), triedAfter: leg ? leg.tried_after : undefined });
  }
  return { bank, legs, last: seen.length - 1 };
}

/** The last boot before it that opened by itself: what its PCRs moved against. */
function baselineOf(scenario, boot) {
  const all = bootsOf(scenario).map((entry) => entry.boot);
  return all.slice(0, all.indexOf(boot)).findLast((other) => other.outcome === "unlocked") || null;
}

/** The rows that made the value of a PCR that is compared: of the last start of the firmware, up to the sealed key's first try. */
function rowsOf(pcr, { legs, last }) {
  return (legs[last] ? legs[last].rows : []).filter((row) => row.seen && row.seen.pcr === pcr && row.seen.early);
}

/** Where what two boots measured into one PCR parts first, or null where it does not. `row` is this boot's event, `was` the earlier
    one's; of an event that is gone, `before` and `after` are the rows between which it stood. */
function parting(now, then) {
  const at = now.findIndex((row, i) => !then[i] || then[i].seen.digest !== row.seen.digest);
  const i = at < 0 ? now.length : at;
  const [row, was] = [now[i], then[i]];
  if (!row && !was) return null;
  const isIn = (one, rows) => rows.slice(i).some((other) => other.seen.digest === one.seen.digest);
  const isNew = row && !isIn(row, then);
  const isGone = was && !isIn(was, now);
  if (isGone && !isNew) return { kind: "gone", row: null, was, before: row || null, after: now[i - 1] || null };
  if (isNew && !isGone) return { kind: "added", row, was: null };
  return { kind: isNew ? "changed" : "elsewhere", row, was };
}

/** Of each PCR that moved the first event that differs from the earlier boot's. */
function partings(boot, aligned, earlier) {
  return boot.moved.map((pcr) => ({ pcr, kind: "unseen", row: null, was: null, ...parting(rowsOf(pcr, aligned), rowsOf(pcr, earlier)) }));
}
