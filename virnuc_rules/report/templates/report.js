"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const CALLS = ["virus", "non_viral", "no_call"], LISTED = 300, TOP = 6;
const {noCall: NO_CALL, steps: STEPS, viral: VIRAL, notShown: NOT_SHOWN} = DATA.codes;
const byId = (id) => document.getElementById(id);
const named = (call) => call.replace("non_", "non-").replace("_", " ");
const number = (n) => n.toLocaleString("en");
const percent = (part, all) => all ? `${(100 * part / all).toFixed(0)} %` : "–";

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
  return new Type(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

const ID = DATA.contigs.ids, COUNT = ID.length, WITH_TRACK = DATA.contigs.withTrack;
const TRACK = unpack(DATA.contigs.track, Uint8Array), CALL = unpack(DATA.contigs.call, Uint8Array);
const C = {};
for (const name of ["sample", "contig_index", "length", "windows", "called_windows", "viral_windows"])
  C[name] = unpack(DATA.contigs[name], Uint32Array);
C.shown = unpack(DATA.contigs.shown, Uint16Array);
const FIRST = new Uint32Array(WITH_TRACK + 1);
for (let row = 0; row < WITH_TRACK; row++) FIRST[row + 1] = FIRST[row] + C.windows[row];
const SMALL = ID.map((id) => id.toLowerCase());
const shownText = (value) => value === NOT_SHOWN ? "–" : (value / 10000).toFixed(3);

// Positions of windows, as virnuc_rules.chunking.windows.cut computes them.
function windowsOf(row) {
  const wide = DATA.samples[C.sample[row]].window, length = C.length[row], total = C.windows[row];
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

function ticks(maximum, count = 5, minimum = 1) {
  const rough = Math.max(maximum / count, minimum), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  return Array.from({length: Math.floor(maximum / step + 1e-9) + 1}, (_, at) => at * step);
}

// An empty plot with axes in the box; 1 unit is 1 pixel, so that all text has the same size.
function plot(box, {height, left = 62, right = 8, top = 18, bottom = 42, maximum, yTicks, yText, xLabel, yLabel, title}) {
  box.replaceChildren();
  const wide = Math.max(220, box.clientWidth), inner = {left, right: wide - right, top, bottom: height - bottom};
  const svg = element(box, "svg", {width: wide, height, viewBox: `0 0 ${wide} ${height}`, role: "img", "aria-label": title});
  const y = (value) => inner.bottom - (inner.bottom - top) * value / (maximum || 1);
  for (const value of yTicks) {
    element(svg, "line", {x1: left, x2: inner.right, y1: y(value), y2: y(value)});
    element(svg, "text", {x: left - 7, y: y(value) + 4, "text-anchor": "end"}, yText(value));
  }
  element(svg, "text", {x: (left + inner.right) / 2, y: height - 6, "text-anchor": "middle"}, xLabel);
  element(svg, "text", {transform: `translate(12 ${(inner.bottom + top) / 2}) rotate(-90)`, "text-anchor": "middle"}, yLabel);
  return {svg, y, inner};
}

const sum = (lists) => lists[0].map((_, at) => lists.reduce((all, list) => all + list[at], 0));

function drawScores(samples) {
  const virus = sum(samples.map((s) => s.histogram.virus)), nonViral = sum(samples.map((s) => s.histogram.non_viral));
  const maximum = Math.max(1, ...virus.map((v, at) => v + nonViral[at]));
  const {svg, y, inner} = plot(byId("scores"), {height: 260, maximum, yTicks: ticks(maximum), yText: number,
    xLabel: DATA.shown.windows, yLabel: "windows", title: `histogram of windows by ${DATA.shown.windows}`});
  const wide = (inner.right - inner.left) / virus.length;
  virus.forEach((v, at) => {
    const title = `${(at / virus.length).toFixed(3)} to ${((at + 1) / virus.length).toFixed(3)}: ${number(v)} virus, ${number(nonViral[at])} non-viral`;
    for (const [low, high, call] of [[0, nonViral[at], "non_viral"], [nonViral[at], nonViral[at] + v, "virus"]]) {
      if (high === low) continue;
      const bar = element(svg, "rect", {x: inner.left + at * wide + .5, width: wide - 1, y: y(high), height: y(low) - y(high), class: call});
      element(bar, "title", {}, title);
    }
  });
  for (const at of [0, .25, .5, .75, 1])
    element(svg, "text", {x: inner.left + at * (inner.right - inner.left), y: inner.bottom + 16, "text-anchor": "middle"}, at);
}

function drawLengths(samples) {
  const virus = sum(samples.map((s) => s.byLength.virus)), nonViral = sum(samples.map((s) => s.byLength.non_viral));
  const {svg, y, inner} = plot(byId("lengths"), {height: 276, bottom: 58, maximum: 1, yTicks: [0, .25, .5, .75, 1], yText: (v) => `${100 * v} %`,
    xLabel: "length of the contig, kb", yLabel: "viral fraction", title: "viral fraction by length"});
  const wide = (inner.right - inner.left) / virus.length;
  virus.forEach((v, at) => {
    const called = v + nonViral[at], part = called ? v / called : 0, x = inner.left + at * wide, middle = x + wide / 2;
    const low = DATA.lengths[at] / 1000, high = DATA.lengths[at + 1] / 1000, name = high ? `${low} to ${high} kb` : `from ${low} kb`;
    const bar = element(svg, "rect", {x: x + wide * .12, width: wide * .76, y: y(part), height: y(0) - y(part), class: "virus"});
    element(bar, "title", {}, `${name}: ${number(v)} virus of ${number(called)} called, ${percent(v, called)}`);
    const few = called < 10000 ? String(called) : `${Math.round(called / 1000)}k`;
    if (called) element(svg, "text", {x: middle, y: y(part) - 4, "text-anchor": "middle"}, percent(v, called).replace(" ", ""));
    element(svg, "text", {x: middle, y: inner.bottom + 32, "text-anchor": "middle"}, `n ${few}`);
    element(svg, "text", {x: middle, y: inner.bottom + 16, "text-anchor": "middle"}, high ? `${low}–${high}` : `≥${low}`);
  });
}

function drawReasons(samples) {
  const all = {}, box = byId("reasons");
  for (const s of samples) for (const [why, n] of Object.entries(s.reasons)) all[why] = (all[why] || 0) + n;
  const rows = Object.entries(all).sort((a, b) => b[1] - a[1]);
  box.replaceChildren();
  if (!rows.length) { element(box, "p", {class: "note"}, "Every window has a call."); return; }
  const wide = Math.max(220, box.clientWidth), svg = element(box, "svg", {width: wide, height: rows.length * 44 + 4, role: "img", "aria-label": "windows by reason"});
  rows.forEach(([why, n], at) => {
    element(svg, "text", {x: 0, y: at * 44 + 15, class: "name"}, why);
    element(svg, "text", {x: wide, y: at * 44 + 15, "text-anchor": "end"}, number(n));
    element(svg, "rect", {x: 0, y: at * 44 + 21, width: Math.max(1, wide * n / rows[0][1]), height: 12, rx: 2, class: "no_call"});
  });
}

function drawTrack(parent, row, height) {
  if (row >= WITH_TRACK) {
    element(parent, "p", {class: "note"}, "No track on this page: see windows.tsv and tracks/ of its sample.");
    return;
  }
  if (!C.windows[row]) {
    element(parent, "p", {class: "note"}, "It has no bases, and so no windows.");
    return;
  }
  const box = element(parent, "div"), readout = element(parent, "div", {class: "note readout"});
  const length = C.length[row], {total, start, end} = windowsOf(row);
  const {svg, y, inner} = plot(box, {height, maximum: 1, left: 50, top: 8, yTicks: [0, .5, 1], yText: String,
    xLabel: "position in the contig, bases", yLabel: height > 150 ? DATA.shown.windows : "", title: `${DATA.shown.windows} along the contig`});
  const x = (at) => inner.left + (inner.right - inner.left) * at / length;
  const paths = {virus: [], non_viral: [], no_call: []}, last = {};
  for (let at = 0; at < total; at++) {
    const {call, score} = scoreOf(row, at), from = x(start(at)), to = Math.max(x(end(at)), from + 1);
    const level = call === "no_call" ? inner.bottom + 4 : y(score), pixel = `${Math.round(2 * from)} ${Math.round(level)}`;
    if (last[call] !== pixel) paths[call].push(`M${from.toFixed(1)} ${level.toFixed(1)}H${to.toFixed(1)}`);
    last[call] = pixel;
  }
  for (const call of CALLS) element(svg, "path", {class: call, d: paths[call].join("")});
  for (const at of ticks(length, (inner.right - inner.left) / 110))
    element(svg, "text", {x: x(at), y: inner.bottom + 20, "text-anchor": at ? "middle" : "start"}, number(at));
  const cursor = element(svg, "line", {class: "cursor", y1: inner.top, y2: inner.bottom, visibility: "hidden"});
  svg.onmousemove = (event) => {
    const base = (event.clientX - svg.getBoundingClientRect().left - inner.left) / (inner.right - inner.left) * length;
    let at = Math.min(total - 1, Math.max(0, Math.floor(base / length * total)));
    while (at > 0 && start(at) > base) at--;
    while (at < total - 1 && start(at + 1) <= base) at++;
    const {call, score} = scoreOf(row, at), middle = x((start(at) + end(at)) / 2);
    for (const side of ["x1", "x2"]) cursor.setAttribute(side, middle);
    cursor.setAttribute("visibility", "visible");
    readout.textContent = `window ${number(at + 1)}, ${number(start(at))} to ${number(end(at))}: ` + (call === "no_call" ? named(call) : `${named(call)}, ${DATA.shown.windows} about ${score.toFixed(2)}`);
  };
  svg.onmouseleave = () => { cursor.setAttribute("visibility", "hidden"); readout.textContent = ""; };
}

function head(parent, row) {
  const line = element(parent, "div");
  element(line, "i", {class: CALLS[CALL[row]], title: CALLS[CALL[row]]});
  element(line, "b", {class: "contig"}, ID[row]);
  return line;
}

let chosen = -1;
function choose(row) {
  chosen = row;
  for (const item of byId("list").children) item.setAttribute("aria-selected", item.dataset.row === String(row));
  byId("track").replaceChildren();
  if (row < 0) return;
  head(byId("track"), row);
  const grid = element(byId("track"), "div", {class: "numbers"});
  for (const [name, value] of [
    ["call", named(CALLS[CALL[row]])], ["sample", DATA.samples[C.sample[row]].name], ["length, bases", number(C.length[row])],
    ["windows", number(C.windows[row])], ["called windows", number(C.called_windows[row])],
    ["viral windows", `${number(C.viral_windows[row])} (${percent(C.viral_windows[row], C.called_windows[row])} of called)`],
    [DATA.shown.contigs, shownText(C.shown[row])], ["contig_index", number(C.contig_index[row])],
  ]) {
    const cell = element(grid, "div", {class: "contig"});
    element(cell, "span", {}, name);
    cell.append(value);
  }
  drawTrack(byId("track"), row, 230);
}

function matching() {
  const part = byId("search").value.toLowerCase(), call = Number(byId("call").value), of = Number(byId("of").value), rows = [];
  for (let row = 0; row < COUNT; row++)
    if ((call < 0 || CALL[row] === call) && (of < 0 || C.sample[row] === of) && (!part || SMALL[row].includes(part))) rows.push(row);
  const key = C[byId("order").value];
  if (key) {
    const value = (row) => key[row] === NOT_SHOWN && byId("order").value !== "length" ? -1 : key[row];
    rows.sort((a, b) => value(b) - value(a));
  }
  return rows;
}

function list() {
  const rows = matching();
  byId("count").textContent = `${number(rows.length)} of ${number(COUNT)}` + (rows.length > LISTED ? `, the first ${LISTED} are shown` : "");
  byId("list").replaceChildren();
  for (const row of rows.slice(0, LISTED)) {
    const item = element(byId("list"), "li", {role: "option", tabindex: 0, "data-row": row});
    element(item, "i", {class: CALLS[CALL[row]]});
    element(item, "span", {}, ID[row]);
    element(item, "small", {}, `${DATA.samples[C.sample[row]].name}, ${number(C.length[row])} bases, ${DATA.shown.contigs} ${shownText(C.shown[row])}`);
    item.onclick = () => choose(row);
    item.onkeydown = (event) => {
      const next = {ArrowDown: item.nextSibling, ArrowUp: item.previousSibling, Enter: item, " ": item}[event.key];
      if (next === undefined) return;
      event.preventDefault();
      if (next) { next.focus(); choose(Number(next.dataset.row)); }
    };
  }
  choose(rows.length ? rows[0] : -1);
}

function figures() {
  const at = Number(byId("sample").value), samples = at < 0 ? DATA.samples : [DATA.samples[at]];
  drawScores(samples); drawLengths(samples); drawReasons(samples);
}

function topTracks() {
  byId("top").replaceChildren();
  for (let row = 0; row < Math.min(TOP, COUNT); row++) {
    const one = element(byId("top"), "div", {class: "one"});
    element(head(one, row), "span", {class: "note"}, ` ${DATA.samples[C.sample[row]].name}, ${number(C.length[row])} bases, ${DATA.shown.contigs} ${shownText(C.shown[row])}`);
    drawTrack(one, row, 125);
  }
}

for (const select of [byId("sample"), byId("of")]) {
  element(select, "option", {value: -1}, "all samples");
  DATA.samples.forEach((s, at) => element(select, "option", {value: at}, s.name));
}
byId("sample").onchange = figures;
byId("search").oninput = list;
for (const name of ["of", "call", "order"]) byId(name).onchange = list;
let width = window.innerWidth;
window.onresize = () => {
  if (window.innerWidth === width) return;
  width = window.innerWidth;
  figures(); choose(chosen); topTracks();
};
figures(); list(); topTracks();
