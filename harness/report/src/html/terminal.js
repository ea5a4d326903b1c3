// A serial console's screen: enough of ECMA-48 and the VT100 for firmware, shim's boxes, kernels and systemd.

const BLANK = Object.freeze({ char: " ", style: "" });

class Screen {
  constructor(columns, rows) {
    this.columns = Math.min(Math.max(columns | 0, 20), 400);
    this.rows = Math.min(Math.max(rows | 0, 5), 200);
    this.history = [];
    this.reset();
  }

  reset() {
    this.grid = Array.from({ length: this.rows }, () => this.emptyRow());
    this.x = this.y = 0;
    this.style = { fg: null, bg: null, bold: false, dim: false, underline: false, inverse: false };
    this.styleKey = "";
    this.top = 0;
    this.bottom = this.rows - 1;
    this.saved = [0, 0];
    this.pending = "";
    /** Whether the history's last line goes on with the next row: the screen was too narrow for it. */
    this.joins = false;
  }

  emptyRow() {
    return new Array(this.columns).fill(BLANK);
  }

  write(text) {
    const all = this.pending + text;
    this.pending = "";
    let at = 0;
    while (at < all.length) {
      const char = all[at];
      if (char === "\x1b") {
        const length = this.escape(all, at);
        if (length === 0) {
          // The rest comes with the next chunk, unless it is no sequence at all.
          if (all.length - at < 256) {
            this.pending = all.slice(at);
            return;
          }
        }
        at += length || 2;
      } else {
        const code = all.codePointAt(at);
        this.put(code, String.fromCodePoint(code));
        at += code > 0xffff ? 2 : 1;
      }
    }
  }

  put(code, char) {
    if (code === 10 || code === 11 || code === 12) this.lineFeed();
    else if (code === 13) this.x = 0;
    else if (code === 8) this.x = Math.max(0, Math.min(this.x, this.columns - 1) - 1);
    else if (code === 9) this.x = Math.min(this.columns - 1, (Math.floor(this.x / 8) + 1) * 8);
    else if (code >= 32 && code !== 127) {
      if (this.x >= this.columns) {
        this.grid[this.y].wrapped = true;
        this.x = 0;
        this.lineFeed();
      }
      this.grid[this.y][this.x] = { char, style: this.styleKey };
      if (this.x === this.columns - 1) this.grid[this.y].wrapped = false;
      this.x += 1;
    }
  }

  lineFeed() {
    if (this.y === this.bottom) this.scroll();
    else if (this.y < this.rows - 1) this.y += 1;
  }

  scroll() {
    const gone = this.grid.splice(this.top, 1)[0];
    if (this.top === 0) this.keep(gone);
    this.grid.splice(this.bottom, 0, this.emptyRow());
  }

  keep(row) {
    this.joins = append(this.history, row, this.joins);
    if (this.history.length > 20000) this.history.splice(0, 5000);
  }

  /** How long the sequence at `at` is, 0 when it is not complete. */
  escape(text, at) {
    const kind = text[at + 1];
    if (kind === undefined) return 0;
    if (kind === "[") {
      const found = /^\x1b\[([0-9;:?<>=!]*)([ -/]*)([@-~])/.exec(text.slice(at, at + 128));
      if (found) {
        this.control(found[1], found[3]);
        return found[0].length;
      }
      return /^\x1b\[[0-9;:?<>=! -/]*$/.test(text.slice(at, at + 128)) ? 0 : 2;
    }
    if (kind === "]" || kind === "P" || kind === "^" || kind === "_") {
      // Titles and device strings say nothing to a screen.
      const end = (kind === "]" ? /\x07|\x1b\\|[\x00-\x06\x08-\x1f]/ : /\x07|\x1b\\/).exec(text.slice(at + 2));
      // Another control character ends a title that nobody finished, and counts itself.
      const own = end && (end[0] === "\x07" || end[0].length === 2) ? end[0].length : 0;
      return end ? 2 + end.index + own : 0;
    }
    if (kind === "(" || kind === ")" || kind === "#" || kind === "%") return text[at + 2] === undefined ? 0 : 3;
    if (kind === "M") {
      if (this.y === this.top) {
        this.grid.splice(this.bottom, 1);
        this.grid.splice(this.top, 0, this.emptyRow());
      } else this.y = Math.max(0, this.y - 1);
    } else if (kind === "D") this.lineFeed();
    else if (kind === "E") {
      this.x = 0;
      this.lineFeed();
    } else if (kind === "7") this.saved = [this.x, this.y];
    else if (kind === "8") [this.x, this.y] = this.saved;
    else if (kind === "c") this.reset();
    return 2;
  }

  control(parameters, final) {
    if (/^[?<>=!]/.test(parameters)) return;
    const numbers = parameters.split(/[;:]/).map((n) => (n === "" ? 0 : Math.min(Number(n), 10000)));
    const first = numbers[0] || 1;
    this.x = Math.min(this.x, this.columns - 1);
    const row = () => this.grid[this.y];
    switch (final) {
      case "A": this.y = Math.max(0, this.y - first); break;
      case "B": case "e": this.y = Math.min(this.rows - 1, this.y + first); break;
      case "C": case "a": this.x = Math.min(this.columns - 1, this.x + first); break;
      case "D": this.x = Math.max(0, this.x - first); break;
      case "E": this.x = 0; this.y = Math.min(this.rows - 1, this.y + first); break;
      case "F": this.x = 0; this.y = Math.max(0, this.y - first); break;
      case "G": case "`": this.x = Math.min(this.columns, first) - 1; break;
      case "d": this.y = Math.min(this.rows, first) - 1; break;
      case "H": case "f":
        this.y = Math.min(this.rows, first) - 1;
        this.x = Math.min(this.columns, numbers[1] || 1) - 1;
        break;
      case "J": this.erase(numbers[0]); break;
      case "K":
        if (numbers[0] === 0) blank(row(), this.x);
        else if (numbers[0] === 1) blank(row(), 0, this.x + 1);
        else blank(row());
        break;
      case "L": case "M":
        for (let i = 0; i < Math.min(first, this.rows) && this.y <= this.bottom; i += 1) {
          this.grid.splice(final === "L" ? this.bottom : this.y, 1);
          this.grid.splice(final === "L" ? this.y : this.bottom, 0, this.emptyRow());
        }
        break;
      case "P":
        row().splice(this.x, first);
        row().wrapped = false;
        while (row().length < this.columns) row().push(BLANK);
        break;
      case "X": blank(row(), this.x, this.x + first); break;
      case "m": this.rendition(numbers); break;
      case "r":
        this.top = first - 1;
        this.bottom = Math.min(this.rows, numbers[1] || this.rows) - 1;
        if (this.top >= this.bottom) [this.top, this.bottom] = [0, this.rows - 1];
        this.x = this.y = 0;
        break;
      case "s": this.saved = [this.x, this.y]; break;
      case "u": [this.x, this.y] = this.saved; break;
      default: break;
    }
  }

  erase(what) {
    if (what === 0) {
      blank(this.grid[this.y], this.x);
      for (let y = this.y + 1; y < this.rows; y += 1) blank(this.grid[y]);
    } else if (what === 1) {
      for (let y = 0; y < this.y; y += 1) blank(this.grid[y]);
      blank(this.grid[this.y], 0, this.x + 1);
    } else {
      // What a boot loader wipes away is what somebody looks for afterwards.
      const last = this.grid.findLastIndex((row) => row.some((cell) => cell.char !== " "));
      for (let y = 0; y <= last; y += 1) this.keep(this.grid[y]);
      this.joins = false;
      this.grid.forEach((row) => blank(row));
    }
  }

  rendition(numbers) {
    const style = this.style;
    for (let i = 0; i < numbers.length; i += 1) {
      const n = numbers[i];
      if (n === 0) Object.assign(style, { fg: null, bg: null, bold: false, dim: false, underline: false, inverse: false });
      else if (n === 1) style.bold = true;
      else if (n === 2) style.dim = true;
      else if (n === 4) style.underline = true;
      else if (n === 7) style.inverse = true;
      else if (n === 22) style.bold = style.dim = false;
      else if (n === 24) style.underline = false;
      else if (n === 27) style.inverse = false;
      else if (n >= 30 && n <= 37) style.fg = n - 30;
      else if (n >= 90 && n <= 97) style.fg = n - 82;
      else if (n === 39) style.fg = null;
      else if (n >= 40 && n <= 47) style.bg = n - 40;
      else if (n >= 100 && n <= 107) style.bg = n - 92;
      else if (n === 49) style.bg = null;
      else if ((n === 38 || n === 48) && numbers[i + 1] === 5) {
        style[n === 38 ? "fg" : "bg"] = Math.min(255, numbers[i + 2] || 0);
        i += 2;
      } else if ((n === 38 || n === 48) && numbers[i + 1] === 2) {
        style[n === 38 ? "fg" : "bg"] = numbers.slice(i + 2, i + 5).map((c) => Math.min(255, c || 0));
        i += 4;
      }
    }
    this.styleKey = JSON.stringify(style);
    if (!style.fg && style.fg !== 0 && style.bg === null && !style.bold && !style.dim && !style.underline
      && !style.inverse) this.styleKey = "";
  }

  /** Everything that was ever on the screen, line by line. */
  wholeText() {
    // A title that was not over when the recording was shows what it hides.
    if (this.pending.startsWith("\x1b]")) [...this.pending.slice(2)].forEach((char) => this.put(char.codePointAt(0), char));
    this.pending = "";
    const lines = [...this.history];
    this.grid.reduce((joins, row) => append(lines, row, joins), this.joins);
    while (lines.length && lines[lines.length - 1] === "") lines.pop();
    return lines.join("\n");
  }

  /** Shows the screen in `node`, a run of equal cells an element. */
  show(node) {
    const lines = this.grid.map((row, y) => {
      const line = el("div", {});
      let start = 0;
      for (let x = 1; x <= this.columns; x += 1) {
        if (x < this.columns && row[x].style === row[start].style) continue;
        line.append(piece(row.slice(start, x), row[start].style));
        start = x;
      }
      if (y === this.y) line.dataset.cursor = "";
      return line;
    });
    node.replaceChildren(...lines);
  }
}

/** Empties cells of a row; one whose last is empty goes on in no other. */
function blank(row, from = 0, to = row.length) {
  row.fill(BLANK, from, to);
  if (to >= row.length) row.wrapped = false;
}

/** Puts a row's text behind `lines`, or at the end of the last where `joins`; gives whether the row goes on in the next. */
function append(lines, row, joins) {
  const text = row.wrapped ? row.map((cell) => cell.char).join("") : lineText(row);
  if (joins && lines.length) lines[lines.length - 1] += text;
  else lines.push(text);
  return Boolean(row.wrapped);
}

function lineText(row) {
  return row.map((cell) => cell.char).join("").trimEnd();
}

function piece(cells, key) {
  // Firmware draws its boxes in code page 437, which the recording has as unknown characters.
  const text = cells.map((cell) => (cell.char === "\ufffd" ? "·" : cell.char)).join("");
  if (!key) return document.createTextNode(text);
  const style = JSON.parse(key);
  const node = el("span", {}, text);
  let fg = colour(style.fg, style.bold);
  let bg = colour(style.bg, false);
  if (style.inverse) [fg, bg] = [bg || "var(--term-bg)", fg || "var(--term-fg)"];
  if (fg) node.style.color = fg;
  if (bg) node.style.backgroundColor = bg;
  if (style.bold) node.style.fontWeight = "700";
  if (style.dim) node.style.opacity = "0.7";
  if (style.underline) node.style.textDecoration = "underline";
  return node;
}

function colour(value, bright) {
  if (value === null) return null;
  if (Array.isArray(value)) return `rgb(${value.map(Number).join(",")})`;
  if (value < 16) return `var(--term-${bright && value < 8 ? value + 8 : value})`;
  if (value >= 232) {
    const grey = (value - 232) * 10 + 8;
    return `rgb(${grey},${grey},${grey})`;
  }
  const level = (n) => (n === 0 ? 0 : n * 40 + 55);
  const n = value - 16;
  return `rgb(${level(Math.floor(n / 36))},${level(Math.floor(n / 6) % 6)},${level(n % 6)})`;
}
