// The batch pages: a drop zone, upload progress, progress of the work as it happens, no form sent twice.
// Everything works without this file; every number and sentence about a batch comes from the server.
"use strict";

const POLL = 2000;

// --- upload ---------------------------------------------------------------------------------------------------------

class Upload {
  constructor(form) {
    this.form = form;
    this.file = form.querySelector("input[type=file]");
    this.zone = form.querySelector("[data-drop]");
    this.sending = form.querySelector("[data-sending]");
    this.button = form.querySelector("button[type=submit]");
    for (const hint of form.querySelectorAll("[data-with-script]")) hint.hidden = false;
    this.file.addEventListener("change", () => this.check());
    form.addEventListener("submit", (event) => this.send(event));
    for (const name of ["dragenter", "dragover"]) this.zone.addEventListener(name, (event) => this.over(event));
    for (const name of ["dragleave", "drop"]) this.zone.addEventListener(name, () => this.zone.classList.remove("over"));
    this.zone.addEventListener("drop", (event) => this.drop(event));
  }

  over(event) {
    event.preventDefault();
    this.zone.classList.add("over");
  }

  drop(event) {
    event.preventDefault();
    const dropped = event.dataTransfer.files.length;
    if (dropped > 1) this.problem("Drop one file at a time: each is a batch of its own.");
    if (dropped !== 1) return;
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    this.file.files = one.files;
    this.check();
  }

  // What the server would refuse for its size alone is not sent.
  check() {
    const tooLarge = this.file.files[0]?.size > Number(this.form.dataset.most);
    this.problem(tooLarge ? this.form.dataset.tooLarge : "");
    return !tooLarge;
  }

  problem(sentence) {
    document.getElementById("file-error").textContent = sentence;
    this.zone.classList.toggle("wrong", sentence !== "");
    if (sentence) this.file.setAttribute("aria-invalid", "true");
    else this.file.removeAttribute("aria-invalid");
  }

  send(event) {
    if (!this.file.files.length) return; // the server says what is missing
    event.preventDefault();
    if (this.request) return;
    if (!this.check()) {
      this.file.focus();
      return;
    }
    this.busy(true);
    const request = (this.request = new XMLHttpRequest());
    request.upload.addEventListener("progress", (progress) => this.show(progress));
    request.addEventListener("load", () => this.answered(request));
    request.addEventListener("error", () => this.failed());
    request.open("POST", this.form.action);
    request.send(new FormData(this.form));
  }

  busy(on) {
    this.sending.hidden = !on;
    this.button.setAttribute("aria-disabled", String(on));
    if (!on) this.request = undefined;
  }

  show({ loaded, total, lengthComputable }) {
    if (!lengthComputable) return;
    const sent = Math.floor((100 * loaded) / total);
    this.sending.querySelector("progress").value = sent;
    // Said when it begins and when it is there: a number every moment is no help to those who listen.
    const words = this.sending.querySelector("[data-sent]");
    const sentence = sent < 100 ? "Uploading…" : "Uploaded. Reading its columns…";
    if (words.textContent !== sentence) words.textContent = sentence;
  }

  answered(request) {
    if (request.status < 400) {
      location.assign(request.responseURL);
      return;
    }
    const next = new DOMParser().parseFromString(request.responseText, "text/html");
    if (!next.querySelector("main")) {
      this.failed();
      return;
    }
    document.title = next.title;
    document.querySelector("main").replaceChildren(...next.querySelector("main").childNodes);
    start();
    document.querySelector("[data-focus]")?.focus();
  }

  failed() {
    this.busy(false);
    this.problem("The upload was interrupted. Nothing was stored; send it again.");
    this.file.focus();
  }
}

// --- progress of the work -------------------------------------------------------------------------------------------

// Follows server-sent events, and asks every moment where there are none to be had. Reloads when the step is over.
class Work {
  constructor(card) {
    this.card = card;
    this.bar = card.querySelector("progress");
    this.follow();
    addEventListener("pagehide", () => this.stop());
    addEventListener("pageshow", (event) => event.persisted && location.reload());
  }

  follow() {
    this.source = new EventSource(this.card.dataset.events);
    this.source.addEventListener("message", (event) => this.show(JSON.parse(event.data)));
    this.source.addEventListener("rest", (event) => this.show(JSON.parse(event.data)));
    this.source.addEventListener("error", () => {
      if (this.source.readyState === EventSource.CLOSED) this.ask();
    });
  }

  async ask() {
    try {
      const response = await fetch(this.card.dataset.progress, { headers: { Accept: "application/json" } });
      if (response.ok) this.show(await response.json());
    } catch {
      // The portal may be starting again; the next question finds out.
    }
    this.timer = setTimeout(() => this.ask(), POLL);
  }

  stop() {
    this.source.close();
    clearTimeout(this.timer);
  }

  show(facts) {
    if (facts.state !== this.card.dataset.state) {
      this.stop();
      location.reload();
      return;
    }
    if (facts.rows) {
      this.bar.max = facts.rows;
      this.bar.value = facts.rows_done;
    }
    for (const [name, text] of [["count", facts.count], ["rate", facts.rate], ["left", facts.left], ["announce", facts.announcement], ["waiting-words", facts.waiting]]) {
      const place = this.card.querySelector(`[data-${name}]`);
      if (place.textContent !== text) place.textContent = text;
    }
    this.card.querySelector("[data-waiting]").hidden = !facts.waiting;
  }
}

// --- start ----------------------------------------------------------------------------------------------------------

function once(event) {
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "1";
}

function start() {
  for (const form of document.querySelectorAll("form[data-upload]")) new Upload(form);
  for (const card of document.querySelectorAll("[data-work]")) new Work(card);
  for (const form of document.querySelectorAll("form[data-once]")) form.addEventListener("submit", once);
}

// A page from the browser's history may be sent again.
addEventListener("pageshow", (event) => {
  if (event.persisted) for (const form of document.querySelectorAll("form[data-once]")) delete form.dataset.sent;
});
start();
