// Which page is shown, and the keyboard. The address after `#` says where one is, so that a place can be passed on.

/** Whether the part that is shown next gets the keyboard: it was come to by an arrow key on its neighbour. */
let focusPart = false;
/** The row that was looked at last: who goes back to the overview is put there again. */
let lastRow = null;
/** The address that is shown. */
let drawn = null;

function route() {
  const [, scenario, boot, part, pcr] = /^#s\/(\d+)(?:\/b\/(\d+)(?:\/([a-z]+)(?:\/(\d+))?)?)?$/.exec(location.hash) || [];
  const index = scenario === undefined ? null : Number(scenario);
  const known = index !== null && RUN.scenarios[index];
  const bootIndex = known && boot !== undefined && bootsOf(known)[Number(boot)] ? Number(boot) : null;
  return { index: known ? index : null, scenario: known || null, bootIndex, part: part || "console", pcr: pcr === undefined ? null : Number(pcr) };
}

function draw() {
  const { index, scenario, bootIndex, part } = route();
  const main = document.getElementById("main");
  const before = main.dataset.at;
  drawn = location.hash;
  if (activePlayer) activePlayer.pause();
  activePlayer = null;
  const crumbs = [];
  if (scenario) crumbs.push(el("a", { href: `#s/${index}` }, scenario.scenario));
  if (bootIndex !== null) crumbs.push(el("a", { href: `#s/${index}/b/${bootIndex}` }, `boot ${bootsOf(scenario)[bootIndex].boot.number}`));
  fill(document.getElementById("crumbs"), el("a", { href: "#" }, RUN.run), crumbs);
  const y = window.scrollY;
  fill(main, scenario ? scenarioPage(scenario, index, bootIndex, part) : overviewPage());
  document.title = [bootIndex !== null && `boot ${bootsOf(scenario)[bootIndex].boot.number}`,
    scenario && `${scenario.scenario} on ${placeName(scenario)}`, `Latchkey ${RUN.run}`].filter(Boolean).join(", ");
  main.dataset.at = `${index}/${bootIndex}`;
  const shown = focusPart && main.querySelector("[role=tab][aria-selected=true]");
  focusPart = false;
  if (shown) shown.focus({ preventScroll: true });
  // Another part of the same boot leaves the page where it is; another boot brings its head into view.
  if (scenario) lastRow = index;
  const row = !scenario && lastRow !== null && document.querySelector(`a.cell[href="#s/${lastRow}"]`);
  if (before === main.dataset.at) window.scrollTo(0, y);
  else if (row) {
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
  } else if (bootIndex !== null) document.querySelector(".boot-page").scrollIntoView({ block: "start" });
  else window.scrollTo(0, 0);
  // Nobody who reads by ear is left on what is gone.
  if (scenario && before && before !== main.dataset.at && !shown) main.focus({ preventScroll: true });
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  document.getElementById("theme-button").textContent = name === "dark" ? "Light" : "Dark";
}

function toggleTheme() {
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  try {
    localStorage.setItem("latchkey-theme", document.documentElement.dataset.theme);
  } catch {
    // A page from a file may not remember.
  }
}

function firstTheme() {
  let kept = null;
  try {
    kept = localStorage.getItem("latchkey-theme");
  } catch {
    kept = null;
  }
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  theme(kept === "dark" || kept === "light" ? kept : dark.matches ? "dark" : "light");
  if (!kept) dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
}

function move(by) {
  const { index, scenario, bootIndex, part } = route();
  if (scenario && bootIndex !== null) {
    const next = bootIndex + by;
    if (bootsOf(scenario)[next]) location.hash = `#s/${index}/b/${next}/${part}`;
    return;
  }
  const all = [...document.querySelectorAll("[data-move]")];
  const at = all.indexOf(document.activeElement);
  const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + by, 0), all.length - 1)];
  if (next) next.focus();
}

function up() {
  const { index, bootIndex } = route();
  location.hash = bootIndex !== null ? `#s/${index}` : "#";
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("help").open) return;
  const target = event.target;
  const isInput = target instanceof HTMLInputElement;
  const typing = isInput && !["range", "checkbox"].includes(target.type) || target instanceof HTMLSelectElement;
  if (isInput && target.type === "range" && event.key.startsWith("Arrow")) return;
  if (event.key === "Escape" && typing) {
    // A browser would empty the field, and what is shown would still be what was looked for.
    event.preventDefault();
    return target.blur();
  }
  if (typing) return;
  const here = route();
  const part = PARTS[Number(event.key) - 1];
  const onButton = target instanceof HTMLButtonElement || target instanceof HTMLAnchorElement;
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "u") up();
  else if (event.key === "t") toggleTheme();
  else if (event.key === "?") document.getElementById("help").showModal();
  else if (event.key === "/" && document.getElementById("search")) document.getElementById("search").focus();
  else if (part && here.scenario && bootsOf(here.scenario).length) location.hash = `#s/${here.index}/b/${here.bootIndex || 0}/${part[0]}`;
  else if (activePlayer && event.key === " " && !onButton && !isInput) activePlayer.toggle();
  else if (activePlayer && event.key === "ArrowLeft") activePlayer.seek(activePlayer.now - STEP_MS);
  else if (activePlayer && event.key === "ArrowRight") activePlayer.seek(activePlayer.now + STEP_MS);
  else return;
  event.preventDefault();
}

firstTheme();
document.getElementById("theme-button").addEventListener("click", toggleTheme);
document.getElementById("help-button").addEventListener("click", () => document.getElementById("help").showModal());
// The address says where one is, so the link must not change it.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
// Who goes on before the page has followed comes here twice; drawn once more, the page would forget where the keyboard is.
window.addEventListener("hashchange", () => { if (location.hash !== drawn) draw(); });
document.addEventListener("keydown", onKey);
// On paper nobody can open what is closed.
const openedToPrint = [];
window.addEventListener("beforeprint", () => {
  openedToPrint.push(...document.querySelectorAll("details.known:not([open])"));
  openedToPrint.forEach((one) => { one.open = true; });
});
window.addEventListener("afterprint", () => openedToPrint.splice(0).forEach((one) => { one.open = false; }));
draw();
document.documentElement.dataset.ready = "";
