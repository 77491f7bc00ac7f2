// Page: puts the parts together. A picture chosen, dropped, photographed or seen by the camera goes to the service, and
// the answer to classified.js or scanned.js; the history brings old ones back.

import { ask, bitmap, blob, json } from "/api.js";
import { el, fill, moment, percent, say } from "/build.js";
import * as classified from "/classified.js";
import * as scanned from "/scanned.js";

const $ = (id) => document.getElementById(id);
const KINDS = {
  classify: { show: classified.showClassified, spoken: classified.spoken, verb: "Classify", undone: "Not classified" },
  scan: { show: scanned.showScanned, spoken: scanned.spoken, verb: "Scan", undone: "Not scanned" },
};
let models = [];
let most = Infinity; // bytes of one upload
let running = null; // AbortController of what is being asked
let current = null; // number of the answer that is shown

// What to ask

const task = () => document.querySelector('input[name="task"]:checked').value;

function fitModels() {
  const fitting = task() === "scan" ? models.filter((model) => model.kind === "cell") : models;
  const before = $("model").value;
  $("model").replaceChildren(...fitting.map((model) => el("option", { value: model.model }, model.model)));
  if (fitting.some((model) => model.model === before)) $("model").value = before;
  const none = !fitting.length;
  for (const id of ["choose", "photo", "frame"]) $(id).disabled = none;
  $("frame").textContent = `${KINDS[task()].verb} this view`;
  tellModel();
}

function tellModel() {
  const model = models.find((each) => each.model === $("model").value);
  const kinds = { cell: "one cell in the middle of the picture", field: "a whole microscope field" };
  if (!model) return fill($("model-facts"), "No model for single cells is open: start serve with one to scan.");
  fill(
    $("model-facts"),
    `${model.title}. Made for ${task() === "scan" ? "cells, which are cut out of the field" : kinds[model.kind]}.`,
    el("span", { class: "id" }, model.id),
    !model.parity_passed && el("b", { class: "alarm" }, "Degraded: it did not pass its parity gates."),
  );
}

async function start() {
  const found = await json("/v1/models");
  models = found.models;
  most = found.max_body_bytes;
  $("choose-facts").textContent = `JPEG, PNG, TIFF, BMP or WebP, up to ${Math.round(most / 2 ** 20)} MB. They stay on this service's machine.`;
  $("about").replaceChildren(`leukoscope ${found.version}. ${found.note} `, el("a", { href: "/openapi.json" }, "API"));
  $("photo").hidden = !matchMedia("(pointer: coarse)").matches;
  fitModels();
  if (found.camera) camera();
  await list(true);
}

// Asking

function complain(text) {
  $("problems").append(el("p", { class: "alarm" }, text));
  $("problems").scrollIntoView({ block: "nearest" });
}

// Ask for one thing after the other: [name, (signal) => answer]; a bad one gets its line, the others go on.
async function work(kind, jobs) {
  if (running) return complain(`${jobs[0][0]}: not taken, another picture is in work. Wait for it, or cancel it.`);
  running = new AbortController();
  $("problems").replaceChildren();
  $("working").hidden = false;
  const bar = $("working-bar");
  try {
    for (const [number, [name, job]] of jobs.entries()) {
      $("working-text").textContent = jobs.length > 1 ? `${number + 1} of ${jobs.length}: ${name}` : name;
      if (jobs.length > 1) [bar.max, bar.value] = [jobs.length, number];
      else bar.removeAttribute("value");
      say(`Working on ${name}`);
      try {
        await show(kind, await job(running.signal));
      } catch (error) {
        if (error.name === "AbortError") return say("Cancelled");
        complain(error.message.startsWith(name) ? error.message : `${name}: ${error.message}`);
        // An older picture's answer must not stand there as if it were this one's.
        fill($("answer-body"), el("p", { class: "kicker" }, name), el("p", { class: "verdict none" }, KINDS[kind].undone), el("p", { class: "alarm" }, error.message));
        current = null;
        mark();
      }
    }
  } finally {
    running = null;
    $("working").hidden = true;
  }
  await list(true).catch((error) => $("problems").childElementCount || complain(error.message));
  if (innerWidth < 900 && !$("problems").childElementCount) $("answer").scrollIntoView();
}

function upload(files) {
  const kind = task();
  const model = encodeURIComponent($("model").value);
  const jobs = [...files].map((file) => [
    file.name,
    (signal) => {
      if (file.size > most) throw new Error(`too large: got ${(file.size / 2 ** 20).toFixed(0)} MB, expected at most ${Math.round(most / 2 ** 20)} MB`);
      const form = new FormData();
      form.append("picture", file);
      const explained = kind === "classify" ? "&explain=true" : "";
      return json(`/v1/${kind}?model=${model}${explained}`, { method: "POST", body: form, signal });
    },
  ]);
  if (jobs.length) work(kind, jobs);
}

async function show(kind, answer) {
  await KINDS[kind].show($("answer-body"), answer, () => forget(answer.id));
  current = answer.id;
  mark();
  say(KINDS[kind].spoken(answer));
}

// History

let next = null;
let thumbnails = [];

async function list(afresh) {
  const found = await json(`/v1/history?limit=20${afresh || !next ? "" : `&before=${next}`}`);
  next = found.next;
  if (afresh) {
    for (const address of thumbnails) URL.revokeObjectURL(address);
    thumbnails = [];
    $("entries").replaceChildren();
  }
  $("entries").append(...found.entries.map(item));
  $("older").hidden = !next;
  $("forget").hidden = !found.count;
  const where = found.kept === "on disk" ? "kept on the service's machine, with the names of files" : "kept until the service stops";
  $("history-facts").textContent = found.count ? `${found.count} ${found.count === 1 ? "answer" : "answers"}, ${where}.` : "Nothing was asked yet.";
  mark();
}

function item(entry) {
  const said = entry.abstained ? (entry.kind === "scan" ? "Field refused" : "No answer") : entry.kind === "scan" ? `${entry.counted ?? "?"} of ${entry.cells} ${entry.cells === 1 ? "cell" : "cells"} counted` : `${entry.label} ${percent(entry.probability)}`;
  const thumbnail = el("img", { alt: "", width: 56, height: 56 });
  blob(`/v1/history/${entry.id}/picture`).then((picture) => {
    thumbnails.push((thumbnail.src = URL.createObjectURL(picture)));
  }, () => {});
  const open = async () => {
    $("problems").replaceChildren();
    try {
      await show(entry.kind, await json(`/v1/history/${entry.id}`));
      $("answer").focus({ preventScroll: true });
      $("answer").scrollIntoView();
    } catch (error) {
      complain(error.message);
    }
  };
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", class: "entry", "data-id": entry.id, onclick: open },
      thumbnail,
      el("span", {}, el("b", { class: entry.abstained || entry.counted === 0 ? "none" : null }, said), el("span", { class: "name" }, entry.picture), el("time", { datetime: entry.time }, `${moment(entry.time)}, ${entry.model}`)),
    ),
  );
}

function mark() {
  for (const button of document.querySelectorAll(".entry"))
    if (Number(button.dataset.id) === current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
}

async function forget(number) {
  try {
    await ask(number ? `/v1/history/${number}` : "/v1/history", { method: "DELETE" });
    if (!number || number === current) {
      current = null;
      $("answer-body").replaceChildren(el("div", { class: "empty" }, el("p", {}, "Forgotten.")));
    }
    say("Forgotten");
    await list(true);
    $("history-title").scrollIntoView({ block: "nearest" });
  } catch (error) {
    complain(error.message);
  }
}

// Camera

const PAUSE_MS = 200;

function camera() {
  $("camera").hidden = false;
  const canvas = $("live");
  const look = async () => {
    if (!document.hidden) {
      try {
        const seen = await bitmap("/v1/camera/frame.jpg");
        if (canvas.width !== seen.width || canvas.height !== seen.height) [canvas.width, canvas.height] = [seen.width, seen.height];
        canvas.getContext("2d").drawImage(seen, 0, 0);
        $("camera-facts").textContent = `Live, ${seen.width} × ${seen.height} px`;
        canvas.classList.remove("stale");
        seen.close();
      } catch (error) {
        $("camera-facts").textContent = error.message;
        canvas.classList.add("stale");
      }
    }
    setTimeout(look, canvas.classList.contains("stale") ? 2000 : PAUSE_MS);
  };
  look();
}

// What people do

$("choose").addEventListener("click", () => $("file").click());
$("photo").addEventListener("click", () => $("shot").click());
for (const id of ["file", "shot"])
  $(id).addEventListener("change", ({ target }) => {
    upload(target.files);
    target.value = "";
  });
$("cancel").addEventListener("click", () => running?.abort());
$("model").addEventListener("change", tellModel);
for (const radio of document.querySelectorAll('input[name="task"]')) radio.addEventListener("change", fitModels);
$("older").addEventListener("click", async ({ currentTarget: button }) => {
  button.disabled = true; // pressed twice it would show them twice
  await list(false).catch((error) => complain(error.message));
  button.disabled = false;
});
$("forget").addEventListener("click", () => {
  $("sure").returnValue = "no";
  $("sure").showModal();
});
$("sure").addEventListener("close", () => $("sure").returnValue === "yes" && forget(null));
$("frame").addEventListener("click", () => {
  const kind = task();
  const model = encodeURIComponent($("model").value);
  const explained = kind === "classify" ? "&explain=true" : "";
  work(kind, [["the camera's view", (signal) => json(`/v1/camera/${kind}?model=${model}${explained}`, { method: "POST", signal })]]);
});

// A picture may be dropped anywhere; dropped beside the zone it would else replace the page.
for (const name of ["dragover", "dragleave", "drop"])
  addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) upload(event.dataTransfer.files);
  });

start().catch((error) => complain(error.message));
