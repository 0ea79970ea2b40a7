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
