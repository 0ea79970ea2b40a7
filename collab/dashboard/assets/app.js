// The page: who looks, the stream of changes, which page is shown, asking before acting.

import { el } from "./draw.js";
import { Learning, Log, Plans, Releases, Traffic } from "./pages.js";
import { Topology } from "./topology.js";

const PAGES = { topology: Topology, plans: Plans, traffic: Traffic, learning: Learning, releases: Releases, log: Log };
const MOST_POINTS = 600;
const MOST_LOG = 500;
const by = (id) => document.getElementById(id);

// What is known here; the server says what changed.
class Store {
  constructor() { this.clear(); this.actions = {}; }

  clear() { this.values = new Map(); this.points = new Map(); this.log = []; }

  take(news) {
    this.known = true;
    if (news.whole) this.clear();
    for (const [key, value] of Object.entries(news.set)) this.values.set(key, value);
    for (const key of news.gone) this.values.delete(key);
    for (const [name, points] of Object.entries(news.points)) {
      const all = (this.points.get(name) ?? []).concat(points);
      this.points.set(name, all.slice(-MOST_POINTS));
    }
    this.log = this.log.concat(news.log).slice(-MOST_LOG);
  }

  all(prefix) { return [...this.values].filter(([key]) => key.startsWith(prefix)).map(([, value]) => value).sort((a, b) => String(a.name ?? a.a).localeCompare(String(b.name ?? b.a))); }

  series(prefix) { return [...this.points.keys()].filter((name) => name.startsWith(prefix)).sort(); }

  actionsFor(target) { return Object.entries(this.actions).filter(([, action]) => action.target === target); }

  // What can be asked for something; what makes no sense now is there and disabled.
  buttons(target, value, act) {
    return this.actionsFor(target).map(([name, action]) => el("button", {
      type: "button", "data-key": `${name}-${value.name}`, "aria-label": `${action.label}: ${value.name}`,
      disabled: Boolean(value.can && !value.can.includes(name)), onclick: () => act(name, action, value.name),
    }, action.label));
  }

  // New children, with the focus, what is open and what is scrolled as before.
  replace(place, children) {
    const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key ?? document.activeElement.closest("[data-key]")?.dataset.key : null;
    const open = new Set([...place.querySelectorAll("details[open][data-key]")].map((one) => one.dataset.key));
    const scrolled = [...place.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one === document.activeElement]);
    place.replaceChildren(...children);
    for (const one of place.querySelectorAll("details[data-key]")) if (open.has(one.dataset.key)) one.open = true;
    [...place.querySelectorAll(".scroll")].forEach((one, i) => {
      if (scrolled[i]?.[0]) one.scrollLeft = scrolled[i][0];
      if (scrolled[i]?.[1]) one.focus({ preventScroll: true });
    });
    if (focused) {
      const found = place.querySelector(`[data-key="${CSS.escape(focused)}"]`);
      (found?.matches("details") ? found.querySelector("summary") : found)?.focus({ preventScroll: true });
    }
  }
}

const store = new Store();
let session = null;
let stream = null;
let page = null;
let due = false;

function draw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; page?.draw(); });
}

function show() {
  if (!session || session.sign_in) return;
  const name = PAGES[location.hash.slice(1)] ? location.hash.slice(1) : "topology";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  page?.end();
  page = new PAGES[name](store, ask);
  by("page").replaceChildren(page.element);
  document.title = `collab – ${name}`;
  page.draw();
}

// --- the stream --------------------------------------------------------------------------

function listen() {
  stream?.close();
  stream = new EventSource("events");
  stream.onmessage = (event) => {
    const news = JSON.parse(event.data);
    store.take(news);
    live("live");
    if (!news.whole) tell(news.log);
    draw();
  };
  stream.onerror = () => {
    live("lost", "reconnecting…");
    if (stream.readyState === EventSource.CLOSED) setTimeout(begin, 2000);
  };
}

function live(kind, text = kind) {
  const place = by("live");
  if (place.textContent !== text) { place.textContent = text; place.className = `tag ${kind}`; }
}

// What a screen reader says: what matters of the news, once.
function tell(lines) {
  const matters = lines.filter((line) => line.level !== "info").map((line) => line.text);
  if (matters.length) by("said").textContent = matters.slice(-3).join(". ");
}

// --- acting --------------------------------------------------------------------------------

function ask(name, action, target) {
  const dialog = by("ask");
  by("ask-title").textContent = action.label;
  by("ask-question").textContent = action.question.replace("{}", target);
  by("ask-yes").textContent = action.label;
  dialog.returnValue = "no";
  dialog.onclose = () => { if (dialog.returnValue === "yes") act(name, target); };
  dialog.showModal();
}

async function act(name, target) {
  try {
    const answer = await post(`actions/${encodeURIComponent(name)}`, { target });
    toast(answer.said);
  } catch (error) {
    toast(error.message, true);
  }
}

function toast(text, bad = false) {
  const line = el("p", { class: bad ? "bad" : "" }, text);
  by("toast").append(line);
  setTimeout(() => line.remove(), 12000);
}

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST", credentials: "same-origin", body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", "X-Collab-Token": session?.token ?? "" },
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error?.message ?? `the server answered ${answer.status}`);
  return found;
}

// --- who looks -------------------------------------------------------------------------------

async function begin() {
  try {
    session = await (await fetch("session", { credentials: "same-origin" })).json();
  } catch {
    live("lost", "reconnecting…");
    setTimeout(begin, 2000);
    return;
  }
  entered();
}

function entered() {
  const out = Boolean(session.sign_in || session.error);
  by("sign-in").hidden = !out;
  by("leave").hidden = out || !session.keys;
  by("who").textContent = out ? "" : `${session.name}, ${session.role}`;
  store.actions = session.actions ?? {};
  if (session.error) by("wrong").textContent = session.error.message;
  if (out) {
    stream?.close();
    page?.end();
    page = null;
    by("page").replaceChildren();
    live("warning", "signed out");
    by("key").focus();
    return;
  }
  show();
  listen();
}

by("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    session = await post("session", { key: by("key").value });
    by("key").value = "";
    by("wrong").textContent = "";
    entered();
  } catch (error) {
    by("wrong").textContent = error.message;
  }
});

by("leave").addEventListener("click", async () => {
  session = await post("session/end", {});
  entered();
});

// --- light and dark ----------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");

function theme(chosen) {
  if (chosen) document.documentElement.dataset.theme = chosen;
  const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  by("theme").textContent = now === "dark" ? "Light" : "Dark";
  by("theme").setAttribute("aria-label", now === "dark" ? "Use light colours" : "Use dark colours");
  show();  // charts take their colours when they are made
}

by("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  try { localStorage.setItem("collab-theme", next); } catch { /* a page may not keep anything */ }
  theme(next);
});

dark.addEventListener("change", () => theme());
addEventListener("hashchange", () => { show(); by("main").focus({ preventScroll: true }); });

let kept = null;
try { kept = localStorage.getItem("collab-theme"); } catch { /* the same */ }
theme(kept);
begin();
