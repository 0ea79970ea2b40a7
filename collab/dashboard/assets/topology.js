// Nodes on rings, links between them: a place never changes while the same nodes are there.

import { LiveTable, ROOM_MS, bytes, cell, el, number, svg, tag } from "./draw.js";

const SHAPES = {
  serving: ["M20 0A20 20 0 1 1-20 0A20 20 0 1 1 20 0Z", "✓"],
  draining: ["M0-24L24 0L0 24L-24 0Z", "↓"],
  offline: ["M0-23L22 15L-22 15Z", "!"],
  lost: ["M-19-19H19V19H-19Z", "✕"],
};
const LABELS_UP_TO = 12;

export class Topology {
  constructor(store, act) {
    this.store = store;
    this.act = act;
    this.wires = svg("g");
    this.nodes = svg("g");
    this.labels = svg("g");
    this.picture = svg("svg", { role: "img" }, this.wires, this.labels, this.nodes);
    this.table = new LiveTable("Nodes", "No node is known.");
    this.between = new LiveTable("Links; the rates are what they carry now, in Mbit/s there and back", "No node has a link with another one.");
    this.element = el("div", {},
      el("h1", {}, "Topology"),
      el("section", { class: "card", "aria-label": "Picture of nodes and links" }, this.picture, legend()),
      el("section", { class: "card" }, this.table.element), el("section", { class: "card" }, this.between.element));
    this.drawn = new Map();
    this.lines = new Map();
    this.shape = "";
    this.watch = new ResizeObserver(() => { this.shape = ""; this.draw(); });
    this.watch.observe(this.element);
  }

  end() { this.watch.disconnect(); cancelAnimationFrame(this.more); this.table.end(); this.between.end(); }

  draw() {
    const nodes = ordered(this.store);
    const links = this.store.all("link:");
    this.place(nodes);
    // What is new is drawn in pieces that leave a frame its time; what is there is kept as it is.
    const until = performance.now() + ROOM_MS;
    const all = this.drawNodes(nodes, until) && this.drawLinks(links, until);
    if (!all) this.more ??= requestAnimationFrame(() => { this.more = undefined; this.draw(); });
    const lost = nodes.filter((node) => node.state === "lost").length;
    this.picture.setAttribute("aria-label", `${nodes.length} nodes, ${lost} lost, ${links.length} links; the tables below say the same`);
    if (all && this.store.known) this.drawTables(nodes, links);
  }

  place(nodes) {
    const width = Math.max(300, this.picture.clientWidth || 800);
    const shape = `${width}|${nodes.map((node) => node.name).join("|")}`;
    if (shape === this.shape) return;
    this.shape = shape;
    const height = width < 600 ? width * 1.05 : Math.min(620, Math.max(360, width * 0.5));
    this.picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.at = new Map();
    const rings = ringsOf(nodes.length);
    let next = 0;
    rings.forEach((count, ring) => {
      const share = (rings.length - ring) / rings.length;
      for (let i = 0; i < count; i += 1, next += 1) {
        const angle = -Math.PI / 2 + (2 * Math.PI * (i + (ring % 2) / 2)) / count;
        const [wide, high] = [width / 2 - 70, height / 2 - 58];
        const middle = nodes.length === 1 ? 0 : share;
        this.at.set(nodes[next].name, [width / 2 + wide * middle * Math.cos(angle), height / 2 - 8 + high * middle * Math.sin(angle)]);
      }
    });
    this.small = nodes.length > 14;
    this.narrow = width < 600;
  }

  drawNodes(nodes, until) {
    const names = new Set(nodes.map((node) => node.name));
    for (const [name, group] of this.drawn) if (!names.has(name)) { group.remove(); this.drawn.delete(name); }
    for (const node of nodes) {
      const [shape, sign] = SHAPES[node.state] ?? SHAPES.offline;
      let group = this.drawn.get(node.name);
      if (!group) {
        if (performance.now() > until) return false;
        group = svg("g", { "data-node": node.name }, svg("path"), svg("text", { class: "sign", y: 6 }), svg("text", { class: "halo", y: 40 }), svg("text", { class: "small halo state", y: 55 }));
        this.drawn.set(node.name, group);
        this.nodes.append(group);
      }
      const [x, y] = this.at.get(node.name);
      const busy = node.in_flight ? `, ${node.in_flight} under way` : "";
      set(group, "class", `node ${node.state}`);
      set(group, "transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})${this.small ? " scale(.72)" : ""}`);
      set(group.children[0], "d", shape);
      text(group.children[1], sign);
      text(group.children[2], node.name.length > 18 ? `${node.name.slice(0, 17)}…` : node.name);
      text(group.children[3], node.state + busy);
    }
    return true;
  }

  drawLinks(links, until) {
    const known = links.filter((link) => this.at.has(link.a) && this.at.has(link.b));
    const pairs = new Map();
    const wanted = new Set();
    for (const link of known) {
      const key = `${link.a}|${link.b}|${link.transport}`;
      wanted.add(key);
      let parts = this.lines.get(key);
      if (!parts) {
        if (performance.now() > until) return false;
        parts = [svg("path", { class: `wire ${link.transport}` }), svg("text", { class: "small halo", "text-anchor": "middle" })];
        this.lines.set(key, parts);
        this.wires.append(parts[0]);
        this.labels.append(parts[1]);
      }
      const pair = `${link.a}|${link.b}`;
      const beside = pairs.get(pair) ?? 0;
      pairs.set(pair, beside + 1);
      const [ax, ay] = this.at.get(link.a);
      const [bx, by] = this.at.get(link.b);
      const length = Math.hypot(bx - ax, by - ay) || 1;
      const bend = beside * 34;
      const [cx, cy] = [(ax + bx) / 2 - ((by - ay) / length) * bend, (ay + by) / 2 + ((bx - ax) / length) * bend];
      const rate = link.mbit_ab + link.mbit_ba;
      set(parts[0], "d", `M${ax.toFixed(1)} ${ay.toFixed(1)}Q${cx.toFixed(1)} ${cy.toFixed(1)} ${bx.toFixed(1)} ${by.toFixed(1)}`);
      set(parts[0], "stroke-width", (1.2 + Math.min(4, Math.log2(1 + rate))).toFixed(1));
      const shown = known.length <= LABELS_UP_TO && !this.narrow;
      set(parts[1], "x", ((ax + bx) / 4 + cx / 2).toFixed(1));
      set(parts[1], "y", ((ay + by) / 4 + cy / 2 + 4).toFixed(1));
      text(parts[1], shown ? `${link.transport}${link.relayed ? ", relayed" : ""} · ${number(link.rtt_ms, 2)} ms · ${number(rate, 2)} Mbit/s` : "");
    }
    for (const [key, parts] of this.lines) if (!wanted.has(key)) { parts.forEach((part) => part.remove()); this.lines.delete(key); }
    return true;
  }

  drawTables(nodes, links) {
    const actions = this.store.actionsFor("node");
    const columns = [["node", ""], ["state", ""], ["address", ""], ["device", ""], ["memory used", "number"], ["under way", "number"], ["plans", ""], ["remarks", ""]];
    if (actions.length) columns.push(["actions", ""]);
    this.table.set(columns, nodes.map((node) => {
      const row = [node.name, cell(node.state, () => tag(node.state)), node.address, node.device, `${bytes(node.resident_mb * 1e6)}${node.memory_bytes ? ` of ${bytes(node.memory_bytes)}` : ""}`,
        number(node.in_flight), node.plans.filter((plan) => plan.state === "serving" && !plan.primary).map((plan) => `${plan.plan} (${plan.stages.join(", ")})`).join("; "),
        node.reason || node.remarks.join("; ")];
      const off = node.state !== "serving";
      if (actions.length) row.push(cell(`${off}`, () => el("span", {}, actions.map(([name, action]) => el("button", { type: "button", "aria-label": `${action.label} ${node.name}`, disabled: off, onclick: () => this.act(name, action, node.name) }, action.label)))));
      return [node.name, row];
    }));
    this.between.set([["link", ""], ["transport", ""], ["round trip ms", "number"], ["there", "number"], ["back", "number"]], links.map((link) => [
      `${link.a}|${link.b}|${link.transport}`, [`${link.a} – ${link.b}`, link.transport + (link.relayed ? ", relayed" : ""), number(link.rtt_ms), number(link.mbit_ab), number(link.mbit_ba)],
    ]));
  }
}

function set(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

// Nodes of plans first, in the order in which requests pass them.
function ordered(store) {
  const place = new Map();
  for (const plan of store.all("plan:")) for (const stage of plan.stages) for (const name of stage.nodes) if (!place.has(name)) place.set(name, place.size);
  return store.all("node:").sort((a, b) => (place.get(a.name) ?? 1e9) - (place.get(b.name) ?? 1e9) || a.name.localeCompare(b.name, "en", { numeric: true }));
}

function ringsOf(count) {
  if (count <= 14) return [count];
  const rings = count <= 34 ? 2 : 3;
  const weight = (rings * (rings + 1)) / 2;
  const sizes = Array.from({ length: rings }, (_, i) => Math.round((count * (rings - i)) / weight));
  sizes[0] += count - sizes.reduce((sum, size) => sum + size, 0);
  return sizes;
}

function legend() {
  const items = Object.entries(SHAPES).map(([state, [shape, sign]]) => el("li", {}, svg("svg", { viewBox: "-34 -26 68 52", "aria-hidden": "true" }, svg("g", { class: `node ${state}` }, svg("path", { d: shape }), svg("text", { class: "sign", y: 6 }, sign))), state));
  const wires = ["grpc", "mqtt", "coap"].map((kind) => el("li", {}, svg("svg", { viewBox: "0 0 26 18", "aria-hidden": "true" }, svg("path", { class: `wire ${kind}`, d: "M0 9H26", "stroke-width": 2 })), kind));
  return el("ul", { class: "legend", "aria-label": "What the shapes mean" }, items, wires);
}
