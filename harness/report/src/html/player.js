// Plays a recording: asciicast v2, one recording a power-on, shared by the boots in it.

const STEP_MS = 5000;
/** The player on screen, for the keyboard. */
let activePlayer = null;

function parseCast(text) {
  const rows = jsonLines(text);
  const header = rows.length && !Array.isArray(rows[0]) ? rows[0] : {};
  const chunks = rows.filter((row) => Array.isArray(row) && row[1] === "o" && typeof row[2] === "string")
    .map((row) => [Number(row[0]) * 1000 || 0, row[2]]);
  return { columns: Number(header.width) || 80, rows: Number(header.height) || 25, chunks };
}

class Player {
  /** `from` and `to` in milliseconds of the recording: where this boot begins, and where its outcome was clear. */
  constructor(cast, from, to, marks) {
    this.cast = cast;
    const last = cast.chunks.length ? cast.chunks[cast.chunks.length - 1][0] : 0;
    this.from = Math.min(from, last);
    // What decided it may have come after the last that was shown.
    this.end = Math.max(last, to, this.from + 1);
    this.now = this.from;
    this.speed = 8;
    this.frame = null;
    this.build(marks);
    this.seek(Math.min(to, this.end));
  }

  build(marks) {
    this.view = el("div", { class: "term", role: "img", "aria-label": "The console at the time shown below" });
    this.button = el("button", { type: "button", class: "play", onclick: () => this.toggle() }, "▶ Play");
    this.time = el("span", { class: "time" });
    this.range = el("input", { type: "range", min: this.from, max: this.end, step: 50, "aria-label": "Time" });
    this.range.addEventListener("input", () => this.seek(Number(this.range.value)));
    const speeds = [1, 2, 8, 30].map((n) => el("option", { value: n, selected: n === this.speed }, `${n}×`));
    const speed = el("select", { "aria-label": "Speed" }, speeds);
    speed.addEventListener("change", () => { this.speed = Number(speed.value); });
    this.text = el("pre", { class: "whole", hidden: true, tabindex: "0" });
    const whole = el("button", { type: "button", class: "quiet", "aria-expanded": "false" }, "Whole text");
    whole.addEventListener("click", () => {
      this.text.hidden = !this.text.hidden;
      whole.setAttribute("aria-expanded", String(!this.text.hidden));
      if (!this.text.hidden) this.text.textContent = this.wholeText();
    });
    const jumps = marks.filter((mark) => this.from + mark.at_ms <= this.end).map((mark) =>
      el("button", { type: "button", class: "jump", onclick: () => this.seek(this.from + mark.at_ms) },
        el("small", {}, clock(mark.at_ms)), " ", mark.what));
    this.node = el("div", { class: "player" }, el("div", { class: "scroll" }, this.view),
      el("div", { class: "controls" }, this.button, this.range, this.time, speed, whole),
      jumps.length > 0 && el("div", { class: "jumps", "aria-label": "Moments" }, jumps), this.text);
  }

  toggle() {
    if (this.frame) return this.pause();
    if (this.now >= this.end) this.seek(this.from);
    this.button.textContent = "❚❚ Pause";
    let last = performance.now();
    const tick = (time) => {
      if (!this.node.isConnected) return this.pause();
      let next = this.now + (time - last) * this.speed;
      last = time;
      // Nobody watches a firmware think: a pause of the recording lasts a second at most.
      const chunk = this.cast.chunks[this.at];
      const coming = chunk ? chunk[0] : this.end;
      if (coming - next > 1000 * this.speed) next = coming - 1000 * this.speed;
      this.advance(Math.min(next, this.end));
      if (this.now >= this.end) return this.pause();
      this.frame = requestAnimationFrame(tick);
    };
    this.frame = requestAnimationFrame(tick);
  }

  pause() {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = null;
    this.button.textContent = "▶ Play";
  }

  seek(to) {
    const target = Math.min(Math.max(to, this.from), this.end);
    if (!this.screen || target < this.now) {
      this.screen = new Screen(this.cast.columns, this.cast.rows);
      this.at = this.cast.chunks.findIndex((chunk) => chunk[0] >= this.from);
      if (this.at < 0) this.at = this.cast.chunks.length;
    }
    this.advance(target);
  }

  advance(to) {
    this.now = to;
    let changed = false;
    while (this.at < this.cast.chunks.length && this.cast.chunks[this.at][0] <= to) {
      this.screen.write(this.cast.chunks[this.at][1]);
      this.at += 1;
      changed = true;
    }
    if (changed || !this.view.firstChild) this.screen.show(this.view);
    this.range.value = String(to);
    this.time.textContent = `${clock(to - this.from)} of ${clock(this.end - this.from)}`;
  }

  wholeText() {
    const screen = new Screen(this.cast.columns, this.cast.rows);
    for (const [time, text] of this.cast.chunks) if (time >= this.from) screen.write(text);
    return screen.wholeText();
  }
}

/** The console of a boot: shown at the moment its outcome was clear. */
async function consolePart(entry, scenario) {
  const { boot } = entry;
  const asked = location.hash;
  const cast = parseCast(await fileText(boot.console));
  // The recording goes on through later boots of the same power-on; this boot ends where the next begins.
  const next = bootsOf(scenario).map((other) => other.boot)
    .find((other) => other.console === boot.console && other.began_ms > boot.began_ms);
  if (next) cast.chunks = cast.chunks.filter((chunk) => chunk[0] < next.began_ms);
  const marks = boot.milestones.filter((mark) => !mark.what.startsWith("QEMU: "));
  const player = new Player(cast, boot.began_ms, boot.began_ms + boot.clear_after_ms, marks);
  // Whoever went on meanwhile has another page's keys.
  if (location.hash === asked) activePlayer = player;
  return player.node;
}
