// Small parts that pages are made of.  Text always goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") made.addEventListener("click", value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) { value /= 1000; at += 1; }
  return `${number(value)} ${units[at]}`;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
}

// Columns are [title, "number" or ""]; a cell is text or an element.
export function table(caption, columns, rows) {
  const head = columns.map(([title, kind]) => el("th", { scope: "col", class: kind }, title));
  const body = rows.map((row) => el("tr", {}, row.map((cell, i) => el("td", { class: columns[i][1] }, cell ?? "–"))));
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)));
}

// A cell that is no text: ``key`` says what it is, and it is made anew when that changes.
export function cell(key, make) {
  return { key, make };
}

export const ROOM_MS = 5;
const AGAIN_MS = 400;
const MANY = 40;
const MANY_AGAIN_MS = 2000;

// A table that stays: of its rows, by the text of their first cell, only what differs is written, in
// pieces that leave a frame its time.  Long ones cost more to lay out than to read: they wait longer.
export class LiveTable {
  constructor(caption, empty) {
    this.head = el("tr");
    this.body = el("tbody");
    this.caption = el("caption", {}, caption);
    this.none = el("p", { class: "muted", hidden: true }, empty);
    this.scroll = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption }, el("table", {}, this.caption, el("thead", {}, this.head), this.body));
    this.element = el("div", {}, this.scroll, this.none);
    this.known = new Map();
    this.began = -1e9;
  }

  end() { clearTimeout(this.later); cancelAnimationFrame(this.frame); this.ended = true; }

  // Columns as `table` takes them; a row is [key, cells].
  set(columns, rows) {
    const titles = columns.map(([title]) => title).join("|");
    if (titles !== this.titles) {
      this.titles = titles;
      this.columns = columns;
      this.head.replaceChildren(...columns.map(([title, kind]) => el("th", { scope: "col", class: kind }, title)));
      this.body.replaceChildren();
      this.known.clear();
    }
    this.none.hidden = rows.length > 0;
    this.scroll.hidden = !rows.length;
    this.scroll.classList.toggle("many", rows.length > MANY);
    this.wanted = rows;
    this.begin();
  }

  begin() {
    if (this.pass || this.later || this.ended) return;
    const rest = (this.wanted.length > MANY ? MANY_AGAIN_MS : AGAIN_MS) - (performance.now() - this.began);
    if (rest > 0) {
      this.later = setTimeout(() => { this.later = undefined; this.begin(); }, rest);
      return;
    }
    this.began = performance.now();
    this.pass = { rows: this.wanted, at: 0 };
    this.step();
  }

  step() {
    const until = performance.now() + ROOM_MS;
    const { rows } = this.pass;
    while (this.pass.at < rows.length && performance.now() < until) this.write(rows[this.pass.at], this.pass.at++);
    if (this.pass.at < rows.length) {
      this.frame = requestAnimationFrame(() => this.step());
      return;
    }
    const kept = new Set(rows.map(([key]) => key));
    for (const [key, { row }] of this.known) if (!kept.has(key)) { row.remove(); this.known.delete(key); }
    const stale = this.pass.rows !== this.wanted;
    this.pass = undefined;
    if (stale) this.begin();
  }

  write([key, cells], at) {
    let entry = this.known.get(key);
    if (!entry) {
      entry = { row: el("tr", {}, cells.map((_, i) => el("td", { class: this.columns[i][1] }))), told: [] };
      this.known.set(key, entry);
    }
    cells.forEach((given, i) => {
      const made = given !== null && typeof given === "object";
      const told = made ? given.key : given ?? "–";
      if (entry.told[i] === told) return;
      entry.told[i] = told;
      if (made) entry.row.children[i].replaceChildren(given.make()); else entry.row.children[i].textContent = told;
    });
    if (this.body.children[at] !== entry.row) this.body.insertBefore(entry.row, this.body.children[at] ?? null);
  }
}

export function tag(text, kind = text) {
  return el("span", { class: `tag ${kind}` }, text);
}

export function card(title, ...children) {
  return el("section", { class: "card" }, el("h2", {}, title), children);
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export const COLOURS = ["one", "two", "three", "four", "five", "six"];

// A chart whose data can be set again; lines are [label, unit].
export class Chart {
  constructor(place, lines, { time = true, height = 200, points = false } = {}) {
    this.place = place;
    const grid = { stroke: colour("edge"), width: 1 };
    const axis = { stroke: colour("muted"), grid, ticks: grid };
    this.plot = new window.uPlot({
      width: Math.max(240, place.clientWidth || 400), height,
      scales: { x: { time }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), (high ?? 0) > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, space: 90, values: (_, all) => all.map((v) => (time ? clock(v) : Number.isInteger(v) ? v : "")) }, { ...axis, size: 56 }],
      series: [{ label: time ? "time" : "round", value: time ? "{HH}:{mm}:{ss}" : (_, v) => v ?? "–" }, ...lines.map(([label, unit], i) => ({
        label, stroke: colour(COLOURS[i % COLOURS.length]), width: 2, spanGaps: true,
        dash: i >= COLOURS.length ? [6, 4] : undefined, points: { show: points },
        value: (_, v) => (v === null || v === undefined ? "–" : `${number(v)} ${unit}`),
      }))],
    }, [[], ...lines.map(() => [])], place);
    this.watch = new ResizeObserver(() => {
      const width = Math.max(240, place.clientWidth);
      if (width !== this.plot.width) this.plot.setSize({ width, height });
    });
    this.watch.observe(place);
  }

  set(data) { this.plot.setData(data); }

  end() { this.watch.disconnect(); this.plot.destroy(); }
}

// Series with times of their own on one axis: [times, values of each].
export function aligned(series) {
  const times = [...new Set(series.flatMap((points) => points.map(([at]) => at)))].sort((a, b) => a - b);
  return [times, ...series.map((points) => {
    const known = new Map(points);
    return times.map((at) => known.get(at) ?? null);
  })];
}
