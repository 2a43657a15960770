"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const CALLS = ["virus", "non_viral", "no_call"], PAGE = 200;
const {noCall: NO_CALL, steps: STEPS, viral: VIRAL, notShown: NOT_SHOWN} = DATA.codes;
const byId = (id) => document.getElementById(id);
const named = (call) => call.replace("non_", "non-").replace("_", " ");
const number = (n) => n.toLocaleString("en");

// All text from files is set as text content here: it can never become markup.
function element(parent, name, attributes = {}, text) {
  const svg = name === "svg" || parent.namespaceURI.endsWith("svg");
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
  return made;
}

function unpack(text, Type) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
  return new Type(bytes.buffer);
}

const ID = DATA.contigs.ids, COUNT = ID.length, WITH_TRACK = DATA.contigs.withTrack;
const TRACK = unpack(DATA.contigs.track, Uint8Array), CALL = unpack(DATA.contigs.call, Uint8Array);
const PLACES = unpack(DATA.contigs.places, Uint32Array);  // start, end, posterior * 10,000 of each region
const C = {};
for (const name of ["sample", "contig_index", "length", "windows", "called_windows", "viral_windows", "regions"])
  C[name] = unpack(DATA.contigs[name], Uint32Array);
C.shown = unpack(DATA.contigs.shown, Uint16Array);
const NOTES = DATA.contigs.annotations.map(({name, values, code}) => ({name, values, code: unpack(code, Uint16Array)}));
const FIRST = new Uint32Array(WITH_TRACK + 1), FIRST_REGION = new Uint32Array(WITH_TRACK + 1);
for (let row = 0; row < WITH_TRACK; row++) {
  FIRST[row + 1] = FIRST[row] + C.windows[row];
  FIRST_REGION[row + 1] = FIRST_REGION[row] + C.regions[row];
}
const sampleOf = (row) => DATA.samples[C.sample[row]][0];
const noteOf = ({values, code}, row) => code[row] ? values[code[row] - 1] : "";
const shownText = (value) => value === NOT_SHOWN ? "–" : (value / 10000).toFixed(3);
const viralText = (row) => `${number(C.viral_windows[row])} of ${number(C.called_windows[row])} called`;

// Fill the table of a section. value(row, column): a number, a text, or NaN, which is always last;
// text(row): where to search, in lower case; make(row): an element. PAGE rows are in the document.
function table(section, count, {value, text, make, chosen = () => true, shown = () => {}, first = -1}) {
  const [search, status, body] = ["input", "[role=status]", ".rows tbody"].map((part) => section.querySelector(part));
  const heads = [...section.querySelectorAll(".rows th[aria-sort]")];
  const [back, forward] = section.querySelectorAll(".pager button"), collator = new Intl.Collator("en", {numeric: true});
  let column = -1, sign = 1, at = 0, rows = [];
  const show = () => {
    const rest = rows.length > PAGE, part = rows.slice(at, at + PAGE);
    body.replaceChildren(...part.map(make));
    section.querySelector(".rows").scrollTop = 0;
    status.textContent = `${number(rows.length)} of ${number(count)}` + (rest ? `, ${number(at + 1)} to ${number(at + part.length)} shown` : "");
    back.parentNode.hidden = !rest;
    back.disabled = at === 0;
    forward.disabled = at + PAGE >= rows.length;
    shown(part);
  };
  const update = () => {
    const part = search.value.trim().toLowerCase();
    rows = Array.from({length: count}, (_, row) => row).filter((row) => chosen(row) && (!part || text(row).includes(part)));
    if (column >= 0) {
      const values = Array.from({length: count});
      for (const row of rows) values[row] = value(row, column);
      const last = (row) => Number.isNaN(values[row]) || values[row] === "";
      const compare = rows.some((row) => typeof values[row] === "string") ? collator.compare : (a, b) => a - b;
      rows.sort((a, b) => last(a) - last(b) || (last(a) ? 0 : sign * compare(values[a], values[b])));
    }
    at = 0;
    show();
  };
  heads.forEach((th, index) => {
    th.firstChild.onclick = () => {
      // Numbers begin with the largest.
      sign = index === column ? -sign : th.classList.contains("n") ? -1 : 1;
      column = index;
      for (const each of heads) each.ariaSort = each !== th ? "none" : sign > 0 ? "ascending" : "descending";
      update();
    };
  });
  search.oninput = update;
  back.onclick = () => { at -= PAGE; show(); };
  forward.onclick = () => { at += PAGE; show(); };
  body.classList.remove("later");
  if (first >= 0) heads[first].ariaSort = "ascending";
  update();
  return update;
}

function samples() {
  const section = byId("samples"), rows = [...section.querySelectorAll(".rows tbody tr")];
  const heads = section.querySelectorAll(".rows th[aria-sort]");
  const value = (row, column) => column ? parseFloat(rows[row].cells[heads[column].cellIndex].dataset.v) : DATA.samples[row][0];
  const texts = rows.map((row) => row.cells[0].textContent.toLowerCase());
  table(section, rows.length, {value, text: (row) => texts[row], make: (row) => rows[row]});
}

// Positions of windows, as virnuc_rules.chunking.windows.cut computes them.
function windowsOf(row) {
  const wide = DATA.samples[C.sample[row]][1], length = C.length[row], total = C.windows[row];
  const surplus = total * wide - length, shorten = Math.floor(surplus / total);
  const oneMore = surplus - shorten * (total - 1);
  const start = (at) => at * wide - at * shorten - Math.min(at, oneMore);
  return {total, start, end: (at) => Math.min(start(at) + wide, length)};
}

function scoreOf(row, at) {
  const code = TRACK[FIRST[row] + at];
  if (code === NO_CALL) return {call: "no_call", score: 0};
  return code >= VIRAL ? {call: "virus", score: (code - VIRAL) / STEPS} : {call: "non_viral", score: code / STEPS};
}

function regionsOf(row) {
  return Array.from({length: C.regions[row]}, (_, at) => {
    const [start, end, posterior] = PLACES.subarray(3 * (FIRST_REGION[row] + at), 3 * (FIRST_REGION[row] + at) + 3);
    return {start, end, posterior: posterior / 10000};
  });
}

function ticks(maximum, count) {
  const rough = Math.max(maximum / count, 1), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  return Array.from({length: Math.floor(maximum / step + 1e-9) + 1}, (_, at) => at * step);
}

// Empty axes; 1 unit is 1 pixel, so that all text has the same size.
function axes(box) {
  const wide = Math.max(220, box.clientWidth), height = 240, inner = {left: 58, right: wide - 8, top: 26, bottom: height - 42};
  const svg = element(box, "svg", {width: wide, height, viewBox: `0 0 ${wide} ${height}`, role: "img", "aria-label": `${DATA.shown.windows} along the contig`});
  const y = (value) => inner.bottom - (inner.bottom - inner.top) * value;
  for (const value of [0, .5, 1]) {
    element(svg, "line", {x1: inner.left, x2: inner.right, y1: y(value), y2: y(value)});
    element(svg, "text", {x: inner.left - 7, y: y(value) + 4, "text-anchor": "end"}, value);
  }
  element(svg, "text", {x: (inner.left + inner.right) / 2, y: height - 6, "text-anchor": "middle"}, "position in the contig, bases");
  element(svg, "text", {transform: `translate(12 ${(inner.bottom + inner.top) / 2}) rotate(-90)`, "text-anchor": "middle"}, DATA.shown.windows);
  return {svg, y, inner};
}

function drawTrack(parent, row) {
  if (row >= WITH_TRACK || !C.windows[row]) {
    const why = C.windows[row] ? "No track on this page: see windows.tsv and tracks/ of its sample." : "It has no bases, and so no windows.";
    element(parent, "p", {class: "note"}, why);
    return;
  }
  const box = element(parent, "div"), readout = element(parent, "div", {class: "note readout"});
  const length = C.length[row], {total, start, end} = windowsOf(row), {svg, y, inner} = axes(box);
  const x = (at) => inner.left + (inner.right - inner.left) * at / length;
  const paths = {virus: [], non_viral: [], no_call: []}, last = {};
  for (let at = 0; at < total; at++) {
    const {call, score} = scoreOf(row, at), from = x(start(at)), to = Math.max(x(end(at)), from + 1);
    const level = call === "no_call" ? inner.bottom + 4 : y(score), pixel = `${Math.round(2 * from)} ${Math.round(level)}`;
    if (last[call] !== pixel) paths[call].push(`M${from.toFixed(1)} ${level.toFixed(1)}H${to.toFixed(1)}`);
    last[call] = pixel;
  }
  for (const call of CALLS) element(svg, "path", {class: call, d: paths[call].join("")});
  const regions = regionsOf(row);
  regions.forEach(({start: from, end: to, posterior}, at) => {
    const bar = element(svg, "rect", {class: "region", x: x(from), width: Math.max(2, x(to) - x(from)), y: 6, height: 8, rx: 2});
    element(bar, "title", {}, `region ${at + 1}, ${number(from)} to ${number(to)}, posterior ${posterior.toFixed(3)}`);
  });
  for (const at of ticks(length, (inner.right - inner.left) / 110))
    element(svg, "text", {x: x(at), y: inner.bottom + 20, "text-anchor": at ? "middle" : "start"}, number(at));
  const cursor = element(svg, "line", {class: "cursor", y1: inner.top, y2: inner.bottom, visibility: "hidden"});
  svg.onmousemove = (event) => {
    const base = (event.clientX - svg.getBoundingClientRect().left - inner.left) / (inner.right - inner.left) * length;
    let at = Math.min(total - 1, Math.max(0, Math.floor(base / length * total)));
    while (at > 0 && start(at) > base) at--;
    while (at < total - 1 && start(at + 1) <= base) at++;
    const {call, score} = scoreOf(row, at), middle = x((start(at) + end(at)) / 2), of = regions.find((each) => each.start <= base && base < each.end);
    for (const side of ["x1", "x2"]) cursor.setAttribute(side, middle);
    cursor.setAttribute("visibility", "visible");
    readout.textContent = `window ${number(at + 1)}, ${number(start(at))} to ${number(end(at))}: ${named(call)}`
      + (call === "no_call" ? "" : `, ${DATA.shown.windows} about ${score.toFixed(2)}`) + (of ? `; region with posterior ${of.posterior.toFixed(3)}` : "");
  };
  svg.onmouseleave = () => { cursor.setAttribute("visibility", "hidden"); readout.textContent = ""; };
}

let current = -1;
function choose(row) {
  current = row;
  for (const each of byId("contigs").querySelectorAll("tbody tr")) {
    each.ariaCurrent = String(each.dataset.row === String(row));
    each.tabIndex = each.dataset.row === String(row) ? 0 : -1;  // one stop for Tab, then arrows
  }
  const box = byId("track");
  box.replaceChildren();
  if (row < 0) return;
  const line = element(box, "h3");
  element(line, "i", {class: CALLS[CALL[row]]});
  element(line, "b", {class: "contig"}, ID[row]);
  const grid = element(box, "div", {class: "numbers"});
  for (const [name, value] of [
    ["call", named(CALLS[CALL[row]])], ["sample", sampleOf(row)], ["length, bases", number(C.length[row])],
    [DATA.shown.contigs, shownText(C.shown[row])], ["windows", number(C.windows[row])], ["viral windows", viralText(row)],
    ["regions", number(C.regions[row])], ["contig_index", number(C.contig_index[row])],
    ...NOTES.map((note) => [note.name, noteOf(note, row)]).filter(([, value]) => value),
  ]) {
    const cell = element(grid, "div", {class: "contig"});
    element(cell, "span", {}, name);
    cell.append(value);
  }
  drawTrack(box, row);
}

function contigRow(row) {
  const tr = document.createElement("tr"), call = CALLS[CALL[row]];
  tr.onclick = () => choose(row);
  tr.dataset.row = row;
  tr.onkeydown = (event) => {
    const next = {ArrowDown: tr.nextSibling, ArrowUp: tr.previousSibling, Enter: tr, " ": tr}[event.key];
    if (next === undefined) return;
    event.preventDefault();
    if (next) { next.focus(); choose(Number(next.dataset.row)); }
  };
  const cell = element(tr, "td", {class: "call"});
  element(cell, "i", {class: call});
  cell.append(named(call));
  const texts = (all) => all.forEach((text) => element(tr, "td", {class: "id", title: text}, text.length > 80 ? text.slice(0, 79) + "…" : text));
  texts([ID[row], sampleOf(row)]);
  const numbers = [number(C.length[row]), shownText(C.shown[row]), viralText(row), number(C.regions[row])];
  for (const text of numbers) element(tr, "td", {class: "n"}, text);
  texts(NOTES.map((note) => noteOf(note, row)));
  return tr;
}

function contigs() {
  const keys = [
    (row) => CALL[row], (row) => ID[row], sampleOf, (row) => C.length[row], (row) => C.shown[row] === NOT_SHOWN ? NaN : C.shown[row],
    (row) => C.viral_windows[row] / C.called_windows[row], (row) => C.regions[row], ...NOTES.map((note) => (row) => noteOf(note, row)),
  ];
  const texts = ID.map((id, row) => [id, sampleOf(row), ...NOTES.map((note) => noteOf(note, row))].join("\n").toLowerCase());
  DATA.samples.forEach(([name], at) => element(byId("of"), "option", {value: at}, name));
  const chosen = (row) => (byId("of").value < 0 || C.sample[row] === Number(byId("of").value)) && (byId("call").value < 0 || CALL[row] === Number(byId("call").value));
  const update = table(byId("contigs"), COUNT, {
    value: (row, column) => keys[column](row), text: (row) => texts[row], make: contigRow, chosen,
    shown: (rows) => choose(rows.length ? rows[0] : -1), first: 0,
  });
  byId("of").onchange = byId("call").onchange = update;
}

let width = window.innerWidth;
window.onresize = () => {
  if (window.innerWidth === width) return;
  width = window.innerWidth;
  choose(current);
};
samples(); contigs();
