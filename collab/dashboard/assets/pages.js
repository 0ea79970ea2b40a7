// Every page but the topology: each has an element, draw() when something changed, end().

import { COLOURS, Chart, LiveTable, aligned, card, cell, clock, el, number, svg, table, tag } from "./draw.js";

// --- plans -----------------------------------------------------------------------------

export class Plans {
  constructor(store, act) {
    this.store = store;
    this.act = act;
    this.place = el("div");
    this.element = el("div", {}, el("h1", {}, "Plans"), this.place);
  }

  end() {}

  draw() {
    const plans = this.store.all("plan:");
    const shown = plans.map((plan) => this.plan(plan));
    this.store.replace(this.place, shown.length ? shown : [el("p", { class: "card muted" }, "No plan runs on the nodes that answer.")]);
  }

  plan(plan) {
    const buttons = this.store.buttons("plan", plan, this.act);
    const flow = plan.stages.map((stage, i) => el("li", {}, el("span", { class: "stage" }, el("b", {}, stage.nodes.join(" + ")),
      `${stage.id}${stage.combine ? `, ${stage.combine}` : stage.ops.length ? `, operators ${stage.ops[0]}–${stage.ops[1] - 1}` : ""} · ${stage.ms === null ? "has not run" : `${number(stage.ms)} ms`}`),
    i + 1 < plan.stages.length ? el("span", { "aria-hidden": "true" }, "→") : null));
    const facts = [`epoch ${plan.epoch}`, plan.release ? `release ${plan.release}` : null, `${number(plan.rate)} answers a second`,
      plan.predicted_ms != null ? `predicted ${number(plan.predicted_ms)} ms` : null,
      plan.alternatives?.length ? `${plan.alternatives.length} alternatives` : "no alternatives"].filter(Boolean);
    return el("section", { class: "card", "aria-label": `Plan ${plan.name}` },
      el("div", { class: "row" }, el("h2", {}, plan.name), el("span", {}, buttons)),
      el("p", { class: "muted" }, facts.join(" · ")),
      el("ol", { class: "flow", "aria-label": "Stages" }, flow),
      this.gantt(plan), this.recent(plan));
  }

  // One row for each of the last requests, below the prediction.
  recent(plan) {
    const requests = [...(this.store.values.get(`recent:${plan.name}`)?.requests ?? [])].reverse();
    if (!requests.length) return null;
    const told = plan.predicted?.length ? [{ predicted: true, ms: plan.predicted_ms ?? 0, bars: plan.predicted }] : [];
    const rows = [...told, ...requests];
    const nodes = [...new Set(plan.stages.flatMap((stage) => stage.nodes))];
    const paint = (row) => COLOURS[Math.max(0, nodes.indexOf(row.split(" + ")[0])) % COLOURS.length];
    const end = Math.max(...rows.flatMap((row) => [row.ms, ...row.bars.map(([, , , start, ms]) => start + ms)]), 0.001);
    const width = Math.max(300, (this.place.clientWidth || 800) - 40);
    const left = width < 500 ? 78 : 150;
    const step = 26;
    const scale = (ms) => left + (ms / end) * (width - left - 70);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${rows.length * step + 22}`, role: "img", "aria-label": `The last requests of plan ${plan.name}; the table below says the same` });
    for (let i = 0; i <= 4; i += 1) {
      const x = scale((end * i) / 4);
      picture.append(svg("path", { class: "axis", d: `M${x} 0V${rows.length * step}` }), svg("text", { class: "small", x, y: rows.length * step + 16, "text-anchor": "middle" }, `${number((end * i) / 4, 2)} ms`));
    }
    rows.forEach((row, i) => {
      picture.append(svg("text", { class: "small", x: 0, y: i * step + 17 }, row.predicted ? "predicted" : clock(row.at)));
      for (const [of, label, kind, start, ms] of row.bars) {
        if (!ms) continue;
        const stage = kind === "stage";
        const paints = stage ? `paint-${paint(of)}` : "bar-wire";
        picture.append(svg("rect", { class: paints, x: scale(start), y: i * step + (stage ? 5 : 10), width: Math.max(1.5, scale(start + ms) - scale(start)), height: stage ? 16 : 6, rx: 2 }, svg("title", {}, `${label}${stage ? ` on ${of}` : ""}: ${number(ms)} ms`)));
      }
      picture.append(svg("text", { class: "small", x: scale(Math.max(row.ms, ...row.bars.map(([, , , start, ms]) => start + ms))) + 6, y: i * step + 17 }, `${number(row.ms)} ms`));
    });
    const key = nodes.map((node) => el("li", {}, svg("svg", { viewBox: "0 0 26 18", "aria-hidden": "true" }, svg("rect", { class: `paint-${paint(node)}`, x: 1, y: 2, width: 24, height: 14, rx: 2 })), node));
    const wire = el("li", {}, svg("svg", { viewBox: "0 0 26 18", "aria-hidden": "true" }, svg("rect", { class: "bar-wire", x: 1, y: 6, width: 24, height: 6, rx: 2 })), "network, estimated");
    const cells = requests.flatMap((row) => row.bars.map(([of, label, , start, ms]) => [clock(row.at), label, of || "network", number(start), number(ms)]));
    return el("div", {}, el("h3", {}, "The last requests of this server"), picture, el("ul", { class: "legend" }, key, wire),
      el("p", { class: "muted" }, "Each stage was timed by its node; what is left of a request's time is shared out over the network. The path shown is the one that the answer waited for."),
      el("details", { "data-key": `recent-${plan.name}` }, el("summary", {}, "As a table"),
        table(`The last requests of plan ${plan.name}, in ms`, [["answered", "time"], ["part", ""], ["where", ""], ["begins", "number"], ["takes", "number"]], cells)));
  }

  gantt(plan) {
    const predicted = plan.predicted ?? [];
    const measured = plan.measured ?? [];
    if (!predicted.length && !measured.length) return el("p", { class: "muted" }, "Nothing is predicted, and no request has run yet: give the plan's file to see its prediction.");
    const rows = [...new Set([...predicted, ...measured].map(([row]) => row))].sort((a, b) => (a === "between") - (b === "between"));
    const end = Math.max(...[...predicted, ...measured].map(([, , , start, ms]) => start + ms), 0.001);
    const width = Math.max(300, (this.place.clientWidth || 800) - 40);
    const left = width < 500 ? 92 : 150;
    const scale = (ms) => left + (ms / end) * (width - left - 56);
    const step = 46;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${rows.length * step + 26}`, role: "img", "aria-label": `Time of one request of plan ${plan.name} by node; the table below says the same` });
    for (let i = 0; i <= 4; i += 1) {
      const x = scale((end * i) / 4);
      picture.append(svg("path", { class: "axis", d: `M${x} 0V${rows.length * step}` }), svg("text", { class: "small", x, y: rows.length * step + 16, "text-anchor": "middle" }, `${number((end * i) / 4, 2)} ms`));
    }
    rows.forEach((row, i) => {
      picture.append(svg("text", { x: 0, y: i * step + 27 }, row.length > left / 8 ? `${row.slice(0, Math.floor(left / 8) - 1)}…` : row));
      for (const [kind, bars, y] of [["predicted", predicted, 4], ["measured", measured, 22]]) {
        for (const [of, label, part, start, ms] of bars) {
          if (of !== row || (part === "edge" && !ms)) continue;
          const [x, long] = [scale(start), Math.max(1.5, scale(start + ms) - scale(start))];
          picture.append(svg("rect", { class: `bar-${kind} ${part === "edge" ? "bar-edge" : ""}`, x, y: i * step + y, width: long, height: 14, rx: 2 }, svg("title", {}, `${label}, ${kind}: ${number(ms)} ms`)));
          if (part === "stage") picture.append(svg("text", { class: "small", x: x + long + 4, y: i * step + y + 11 }, number(ms)));
        }
      }
    });
    const key = (kind) => el("li", {}, svg("svg", { viewBox: "0 0 26 18", "aria-hidden": "true" }, svg("rect", { class: `bar-${kind}`, x: 1, y: 2, width: 24, height: 14, rx: 2 })), kind);
    const cells = new Map();
    for (const [at, bars] of [[0, predicted], [1, measured]]) for (const [row, label, , , ms] of bars) {
      const cell = cells.get(label) ?? [row, null, null];
      cell[at + 1] = ms;
      cells.set(label, cell);
    }
    return el("div", {}, el("h3", {}, "One request, predicted and measured"), picture, el("ul", { class: "legend" }, key("predicted"), key("measured")),
      el("p", { class: "muted" }, "Measured are the means of each stage since the last look. Between two stages it is half of their link's round trip; the way from and to the requester is not seen here."),
      el("details", { "data-key": `gantt-${plan.name}` }, el("summary", {}, "As a table"),
        table(`Times of plan ${plan.name} in ms`, [["part", ""], ["where", ""], ["predicted", "number"], ["measured", "number"]], [...cells].map(([label, [row, a, b]]) => [label, row, number(a), number(b)]))));
  }
}

// --- traffic -----------------------------------------------------------------------------

export class Traffic {
  constructor(store) {
    this.store = store;
    this.charts = [
      ["asked_ms:", "From the request to its answer", "ms"],
      ["rate:", "Answers", "a second"],
      ["nodes_ms:", "In nodes, of one answer", "ms"],
      ["stage_ms:", "In the stages of one request, on average", "ms"],
      ["refused:", "Refused and failed", "a second", "Nothing was refused and nothing failed."],
      ["link_mbit", "Carried by the links between nodes", "Mbit/s"],
    ].map(([prefix, title, unit, empty = "Nothing yet."]) => ({ prefix, title, unit, empty, place: el("div", { class: "chart" }), table: el("details", { "data-key": prefix }, el("summary", {}, "As a table")) }));
    this.element = el("div", {}, el("h1", {}, "Traffic"), el("div", { class: "grid" }, this.charts.map((chart) => card(`${chart.title}, ${chart.unit}`, chart.place, chart.table))),
      el("p", { class: "muted" }, "Quantiles are of the last 5 s. Nodes do not see what a requester waits in all: that is known of the requests of collab serve, on its own page. A request that one node refuses may be answered by another one."));
  }

  end() { for (const chart of this.charts) chart.drawn?.end(); }

  draw() {
    for (const chart of this.charts) {
      const names = this.store.series(chart.prefix);
      const labels = names.map((name) => name.slice(chart.prefix.length).replace(/^nodes: /, "") || "all links");
      const shape = names.join("|");
      if (chart.shape !== shape || !chart.drawn) {
        chart.drawn?.end();
        chart.place.replaceChildren();
        chart.shape = shape;
        chart.drawn = names.length ? new Chart(chart.place, labels.map((label) => [label, chart.unit])) : null;
        if (!names.length) chart.place.append(el("p", { class: "muted" }, chart.empty));
      }
      if (!chart.drawn) {
        chart.place.removeAttribute("role");
        chart.place.removeAttribute("aria-label");
        continue;
      }
      chart.place.setAttribute("role", "img");
      const data = aligned(names.map((name) => this.store.points.get(name)));
      chart.drawn.set(data);
      const last = data.map((column) => column[column.length - 1]);
      chart.place.setAttribute("aria-label", `${chart.title}: ${labels.map((label, i) => `${label} ${number(last[i + 1])} ${chart.unit}`).join(", ")}`);
      if (chart.table.open) {
        const rows = data[0].slice(-20).map((at, i, all) => [clock(at), ...data.slice(1).map((column) => number(column[column.length - all.length + i]))]).reverse();
        this.store.replace(chart.table, [el("summary", {}, "As a table"), table(`${chart.title}, the last 20 looks`, [["time", ""], ...labels.map((label) => [`${label} ${chart.unit}`, "number"])], rows)]);
      }
    }
  }
}

// --- learning ------------------------------------------------------------------------------

export class Learning {
  constructor(store) {
    this.store = store;
    this.place = el("div");
    this.element = el("div", {}, el("h1", {}, "Learning"), this.place);
    this.charts = [];
    this.drawn = null;
  }

  end() { for (const chart of this.charts) chart.end(); this.charts = []; }

  draw() {
    const runs = this.store.all("run:");
    const shape = JSON.stringify(runs);
    if (this.drawn === shape) return;
    this.drawn = shape;
    this.end();
    this.store.replace(this.place, runs.length ? runs.map((run) => this.run(run)) : [el("p", { class: "card muted" }, "No federated run: give the folders of some with --runs.")]);
    for (const run of runs) this.curve(run);
  }

  run(run) {
    const left = (round) => [...round.left_out.map(([client, kind, reason]) => `${client}: ${kind} (${reason})`), ...round.quarantined.map((client) => `${client}: quarantined`)].join("; ");
    const rows = [...run.rounds].reverse().map((round) => [String(round.round), tag(round.outcome, round.outcome === "made" ? "serving" : "warning"), number(round.loss), number(round.evaluation.accuracy ?? null), String(round.took_part), number(round.seconds), number(round.mbytes), left(round) || round.reason]);
    return el("section", { class: "card", "aria-label": `Run ${run.name}` }, el("h2", {}, run.name), el("p", { class: "muted" }, `${run.task} · ${run.said}`),
      el("div", { class: "chart", role: "img", "data-run": run.name, "aria-label": `Curves of run ${run.name}; the table below says the same` }),
      table("Rounds, the last one first", [["round", "number"], ["outcome", ""], ["loss", "number"], ["accuracy", "number"], ["clients", "number"], ["seconds", "number"], ["MB", "number"], ["left out, and why", ""]], rows));
  }

  curve(run) {
    const place = this.place.querySelector(`[data-run="${CSS.escape(run.name)}"]`);
    const known = [["loss", (round) => round.loss], ["accuracy", (round) => round.evaluation.accuracy], ["evaluated loss", (round) => round.evaluation.loss]]
      .map(([name, of]) => [name, run.rounds.map((round) => of(round) ?? null)]).filter(([, values]) => values.some((value) => value !== null));
    if (!known.length) { place.append(el("p", { class: "muted" }, "Nothing was measured yet.")); return; }
    const chart = new Chart(place, known.map(([name]) => [name, ""]), { time: false, points: true });
    chart.set([run.rounds.map((round) => round.round), ...known.map(([, values]) => values)]);
    this.charts.push(chart);
  }
}

// --- releases --------------------------------------------------------------------------------

// Words of rollouts and updates, by the colour of their sign.
const STATUS = { healthy: "serving", committed: "serving", updating: "info", dropped: "error", failed: "error", "rolled back": "warning", offline: "warning", "to go back": "warning", "going back": "warning", "gone back": "warning" };

export class Releases {
  constructor(store, act) {
    this.store = store;
    this.act = act;
    this.held = new LiveTable("What each device has", "No device holds a plan.");
    this.place = el("div");
    this.element = el("div", {}, el("h1", {}, "Releases"), el("section", { class: "card" }, this.held.element), this.place);
  }

  end() { this.held.end(); }

  draw() {
    const held = this.store.all("node:").flatMap((node) => node.plans.filter((plan) => !plan.primary).map((plan) => [`${node.name} ${plan.plan} ${plan.epoch}`,
      [node.name, cell(node.state, () => tag(node.state)), plan.plan, String(plan.epoch), cell(plan.state, () => tag(plan.state)), `${plan.release || "–"}${plan.trial ? `, a new one on trial: ${plan.trial}` : ""}`]]));
    this.held.set([["device", ""], ["device is", ""], ["plan", ""], ["epoch", "number"], ["plan is", ""], ["release", ""]], held);
    const [histories, rollouts] = [this.store.all("history:"), this.store.all("rollout:")];
    const shape = JSON.stringify([histories, rollouts]);
    if (this.drawn === shape) return;
    this.drawn = shape;
    this.store.replace(this.place, [
      ...histories.map((plan) => this.history(plan)),
      ...(rollouts.length ? rollouts.map((rollout) => this.rollout(rollout)) : [el("p", { class: "card muted" }, "No rollout: give the folders of some with --rollouts.")]),
    ]);
  }

  head(title, target, value) {
    return el("div", { class: "row" }, el("h2", {}, title), el("span", { class: "buttons" }, this.store.buttons(target, value, this.act)));
  }

  history(plan) {
    const rows = [...plan.versions].reverse().map(([version, , epoch, proven], i) => [version, i ? "before" : "runs", epoch ? String(epoch) : "–", proven ? "yes" : "not yet"]);
    const ended = [...plan.outcomes].reverse().map(([result, version, epoch, reason]) => [tag(result, STATUS[result] ?? ""), version, epoch ? String(epoch) : "–", reason || "–"]);
    return el("section", { class: "card", "aria-label": `Models of plan ${plan.name}` }, this.head(`What plan ${plan.name} ran`, "history", plan), el("p", {}, plan.said),
      table("Models that are kept", [["model", ""], ["it", ""], ["epoch", "number"], ["proved itself", ""]], rows),
      ended.length ? table("How updates ended, the last first", [["result", ""], ["model", ""], ["epoch", "number"], ["why", ""]], ended) : null);
  }

  rollout(rollout) {
    const rows = [...rollout.targets].sort((a, b) => a[1] - b[1]).map(([name, wave, status, version, reason]) => [String(wave), name, tag(status, STATUS[status] ?? ""), version || "–", reason || "–"]);
    return el("section", { class: "card", "aria-label": `Rollout ${rollout.name}` }, this.head(rollout.name, "rollout", rollout), el("p", {}, rollout.said),
      table("Targets by wave", [["wave", "number"], ["target", ""], ["state", ""], ["version", ""], ["why", ""]], rows));
  }
}

// --- log ---------------------------------------------------------------------------------------

export class Log {
  constructor(store) {
    this.store = store;
    this.place = el("div");
    this.choice = el("select", { id: "kind" }, ["everything", "node", "plan", "failover", "action", "run", "rollout", "history"].map((kind) => el("option", { value: kind }, kind)));
    this.choice.addEventListener("change", () => { this.drawn = null; this.draw(); });
    this.element = el("div", {}, el("div", { class: "row" }, el("h1", {}, "Log"), el("p", {}, el("label", { for: "kind" }, "Show "), this.choice)), el("section", { class: "card" }, this.place));
  }

  end() {}

  draw() {
    const last = this.store.log[this.store.log.length - 1]?.id;
    if (this.drawn === last) return;
    this.drawn = last;
    const kind = this.choice.value;
    const rows = this.store.log.filter((line) => kind === "everything" || line.kind === kind).slice(-200).reverse().map((line) => [clock(line.at), tag(line.level), line.kind, line.text]);
    this.store.replace(this.place, [rows.length ? table("What happened, the last first", [["time", "time"], ["level", ""], ["of", ""], ["what", ""]], rows) : el("p", { class: "muted" }, "Nothing happened.")]);
  }
}
