// The live gauge, errors beside fields, stepping, double-submit protection and the theme switch.
// Everything works without this file; no bound, cut-off or wording is written here.
"use strict";

const DEBOUNCE = 150;
const REST = 1000;
const GAP = 8; // pixels between the panel over the form and the field that has the focus

// --- theme ---------------------------------------------------------------------------------------------------------

function currentTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  return document.documentElement.dataset.theme || system;
}

function showTheme(button) {
  button.setAttribute("aria-pressed", String(currentTheme() === "dark"));
}

function switchTheme(button) {
  const theme = currentTheme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Storage may be forbidden; the choice then lasts for this page.
  }
  showTheme(button);
}

for (const button of document.querySelectorAll("[data-theme-switch]")) {
  button.hidden = false;
  showTheme(button);
  button.addEventListener("click", () => switchTheme(button));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => showTheme(button));
}

// --- swapping a piece of the page -----------------------------------------------------------------------------------

// Changes `from` into `to` in place: elements that stay keep their identity, so style sheet transitions run.
function morph(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(to);
  } else if (from.nodeType === Node.TEXT_NODE) {
    if (from.data !== to.data) from.data = to.data;
  } else if (from.nodeType === Node.ELEMENT_NODE) {
    morphAttributes(from, to);
    morphChildren(from, to);
  }
}

function morphAttributes(from, to) {
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !folds(from, name)) from.removeAttribute(name);
  }
  for (const { name, value } of [...to.attributes]) {
    if (from.getAttribute(name) !== value && !folds(from, name)) from.setAttribute(name, value);
  }
}

// What a person opened or closed stays open or closed.
function folds(element, name) {
  return name === "open" && element.hasAttribute("data-fold");
}

function morphChildren(from, to) {
  const before = [...from.childNodes];
  const after = [...to.childNodes];
  after.forEach((node, index) => (index < before.length ? morph(before[index], node) : from.append(node)));
  before.slice(after.length).forEach((node) => node.remove());
}

function parsed(html) {
  return new DOMParser().parseFromString(html, "text/html").body;
}

// --- the live form --------------------------------------------------------------------------------------------------

class LiveForm {
  constructor(form) {
    this.form = form;
    this.preview = document.querySelector("[data-preview]");
    this.panel = this.preview.closest(".result");
    this.live = document.querySelector("[data-announce]");
    this.left = new Set();
    this.problems = {};
    this.needed = {};
    this.sent = false;
    this.pending = true; // until the first answer, the errors that the server wrote beside the fields stay
    for (const field of form.querySelectorAll("[data-field].wrong")) this.left.add(field.dataset.field);
    form.addEventListener("input", () => this.later());
    form.addEventListener("focusin", () => this.uncover());
    form.addEventListener("focusout", (event) => this.leave(event));
    form.addEventListener("submit", (event) => this.submit(event));
    form.addEventListener("keydown", step);
    // A page from the browser's history shows old values beside an old gauge, and may be submitted again.
    addEventListener("pageshow", (event) => event.persisted && this.later());
    addEventListener("online", () => this.later());
    this.fold();
  }

  get status() {
    return this.preview.querySelector("[data-status]");
  }

  // Where the panel lies over the form (the style sheet says so), the reasons begin folded.
  fold() {
    if (!getComputedStyle(this.preview).getPropertyValue("--folded").trim()) return;
    for (const details of this.preview.querySelectorAll("[data-fold]")) details.open = false;
  }

  // Where the panel lies over the form, the field that has the focus is moved out from under it, once the browser has
  // done its own scrolling.
  uncover() {
    requestAnimationFrame(() => {
      const field = document.activeElement.closest(".sheet [data-field], .sheet button");
      if (!field) return;
      const [panel, box] = [this.panel.getBoundingClientRect(), field.getBoundingClientRect()];
      const covered = panel.bottom + GAP - box.top;
      if (covered > 0 && box.bottom > panel.top && box.left < panel.right && panel.left < box.right) scrollBy(0, -covered);
    });
  }

  later() {
    clearTimeout(this.timer);
    clearTimeout(this.resting);
    this.pending = true;
    this.lock(false);
    this.timer = setTimeout(() => this.follow(), DEBOUNCE);
  }

  async follow() {
    this.request?.abort();
    const request = (this.request = new AbortController());
    try {
      this.show(await this.ask(request.signal));
      this.status.hidden = true;
    } catch (error) {
      if (error.name === "AbortError") return;
      this.status.textContent = `${error.words || "Live preview paused."} `;
      this.status.hidden = false;
    }
  }

  async ask(signal) {
    const response = await fetch(this.form.dataset.live, {
      method: "POST",
      body: new FormData(this.form),
      headers: { Accept: "application/json" },
      signal,
    });
    if (response.ok) return response.json();
    const { error } = await response.json().catch(() => ({}));
    throw Object.assign(new Error(`status ${response.status}`), { words: error });
  }

  show(answer) {
    this.pending = false;
    this.problems = answer.problems;
    this.needed = answer.needed;
    const next = parsed(`<div data-preview>${answer.html}</div>`).firstElementChild;
    next.normalize();
    morph(this.preview, next);
    this.uncover();
    this.showProblems();
    this.resting = setTimeout(() => this.announce(answer.announcement), REST);
  }

  announce(text) {
    if (this.live.textContent !== text) this.live.textContent = text;
  }

  leave(event) {
    const field = event.target.closest("[data-field]");
    if (!field) return;
    if (event.target.value.trim()) this.left.add(field.dataset.field);
    // The next answer knows this value; the last one may not.
    if (!this.pending) this.showProblems();
  }

  showProblems() {
    for (const field of this.form.querySelectorAll("[data-field]")) this.showProblem(field);
  }

  // A blank required value is an error only where one was shown before: while a form is being filled, blank is no mistake.
  showProblem(field) {
    const name = field.dataset.field;
    const wrong = field.classList.contains("wrong");
    if (!this.left.has(name) && !wrong) return;
    const sentence = this.problems[name] ?? (wrong ? this.needed[name] : undefined) ?? "";
    field.classList.toggle("wrong", sentence !== "");
    field.querySelector(".error").textContent = sentence;
    const control = field.querySelector("input, select");
    if (sentence) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  }

  submit(event) {
    if (this.sent) event.preventDefault();
    else this.lock(true);
  }

  lock(on) {
    this.sent = on;
    for (const button of this.form.elements) if (button.type === "submit") button.setAttribute("aria-disabled", String(on));
  }
}

// --- arrow keys step numbers, within their bounds -------------------------------------------------------------------

function step(event) {
  const { target, key } = event;
  if (!target.matches("input[data-step]") || (key !== "ArrowUp" && key !== "ArrowDown")) return;
  const now = target.value.trim() === "" ? NaN : Number(target.value);
  if (target.value.trim() !== "" && Number.isNaN(now)) return;
  event.preventDefault();
  target.value = String(stepped(now, key === "ArrowUp" ? 1 : -1, event.shiftKey ? 10 : 1, target.dataset));
  target.dispatchEvent(new Event("input", { bubbles: true }));
}

function stepped(now, direction, times, { min, max, step: size }) {
  const [lowest, highest] = [Number(min), Number(max)];
  if (Number.isNaN(now)) return Math.max(lowest, Math.min(highest, 0));
  const next = now + direction * times * Number(size);
  return Math.max(lowest, Math.min(highest, Number(next.toFixed(10))));
}

// --- the what-if curve ----------------------------------------------------------------------------------------------

// A slider that rests on one value for each step of the curve. Places, values, scores and verdicts all come from the page.
class CurveSlider {
  constructor(curve) {
    this.curve = curve;
    this.stops = JSON.parse(curve.dataset.curve);
    this.slider = curve.querySelector("[data-slider]");
    this.field = document.getElementById(curve.dataset.field);
    this.at = Number(curve.dataset.at);
    const { slider } = this;
    slider.setAttribute("role", "slider");
    slider.setAttribute("aria-label", curve.dataset.label);
    slider.setAttribute("aria-valuemin", "1");
    slider.setAttribute("aria-valuemax", String(this.stops.length));
    slider.tabIndex = 0;
    slider.addEventListener("keydown", (event) => this.key(event));
    slider.addEventListener("pointerdown", (event) => this.press(event));
    slider.addEventListener("pointermove", (event) => this.dragging && this.toPointer(event));
    for (const end of ["pointerup", "pointercancel"]) slider.addEventListener(end, () => (this.dragging = false));
    this.describe();
  }

  key(event) {
    const leap = Math.max(1, Math.round(this.stops.length / 10));
    const moves = {
      ArrowRight: this.at + 1, ArrowUp: this.at + 1, ArrowLeft: this.at - 1, ArrowDown: this.at - 1,
      PageUp: this.at + leap, PageDown: this.at - leap, Home: 0, End: this.stops.length - 1,
    };
    if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.to(moves[event.key]);
  }

  press(event) {
    this.dragging = true;
    this.slider.setPointerCapture(event.pointerId);
    this.toPointer(event);
  }

  toPointer(event) {
    const box = this.slider.getBoundingClientRect();
    const x = (100 * (event.clientX - box.left)) / box.width;
    const far = this.stops.map((stop) => Math.abs(stop.x - x));
    this.to(far.indexOf(Math.min(...far)));
  }

  to(place) {
    this.at = Math.max(0, Math.min(this.stops.length - 1, place));
    const { x, y, typed } = this.stops[this.at];
    const [line, dot] = this.slider.querySelector("[data-marker]").children;
    for (const name of ["x1", "x2"]) line.setAttribute(name, `${x}%`);
    dot.setAttribute("cx", `${x}%`);
    dot.setAttribute("cy", `${y}%`);
    if (this.field) this.field.value = typed; // a withdrawn product has no field to take it
    this.describe();
  }

  describe() {
    const { value, score, verdict, tone, words } = this.stops[this.at];
    const reading = this.curve.querySelector("[data-reading]");
    reading.className = `curve-reading tone-${tone}`;
    reading.querySelector("[data-value]").textContent = value;
    reading.querySelector("[data-score-text]").textContent = score;
    reading.querySelector("[data-verdict]").textContent = verdict;
    this.slider.setAttribute("aria-valuenow", String(this.at + 1));
    this.slider.setAttribute("aria-valuetext", words);
  }
}

// --- start ----------------------------------------------------------------------------------------------------------

for (const form of document.querySelectorAll("form[data-live]")) new LiveForm(form);
for (const curve of document.querySelectorAll("[data-curve]")) new CurveSlider(curve);
for (const button of document.querySelectorAll("[data-print]")) {
  button.hidden = false;
  button.addEventListener("click", () => print());
}
for (const summary of document.querySelectorAll("[data-focus]")) summary.focus();
// The summary's links put the cursor into their field, not only into view.
document.addEventListener("click", (event) => {
  const link = event.target.closest(".summary a");
  if (!link) return;
  event.preventDefault();
  const control = document.getElementById(link.hash.slice(1));
  control.closest("[data-field]").scrollIntoView({ block: "center" });
  control.focus({ preventScroll: true });
});
