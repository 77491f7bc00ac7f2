// Classified: one picture's answer on the page: class or why none, probabilities, and the heat over the picture.

import { blob, bitmap } from "/api.js";
import { degraded, el, fill, percent, probabilities, reasons, save, strengthSlider, tail } from "/build.js";
import { draw, layers } from "/heat.js";

const SIDE = 448;

export function spoken(answer) {
  const flags = Object.entries(answer.flags).map(([name, flag]) => `${name}: ${flag.yes ? "yes" : "no"}.`);
  if (!answer.abstained) return [`${answer.label}, ${percent(answer.probability)}.`, ...flags].join(" ");
  return `No answer. ${answer.refusals.map((refusal) => refusal.text).join(". ")}`;
}

export async function showClassified(body, answer, forget) {
  const seen = answer.id ? await bitmap(`/v1/history/${answer.id}/picture`) : null;
  const canvas = el("canvas", { width: SIDE, height: SIDE, role: "img", class: "seen" });
  canvas.setAttribute("aria-label", `What the model saw of ${answer.picture}, with the heatmap for ${answer.label}`);
  const over = layers(answer.heatmap, answer.placement, SIDE);
  const slider = strengthSlider((strength) => seen && draw(canvas, seen, over, strength));
  const title = answer.abstained
    ? el("p", { class: "verdict none" }, "No answer")
    : el("p", { class: "verdict" }, answer.label, " ", el("span", {}, percent(answer.probability)));
  // Without an answer there is no yes or no either.
  const flags = Object.entries(answer.abstained ? {} : answer.flags).map(([name, flag]) =>
    el(
      "li",
      { class: flag.yes ? "yes" : "no" },
      el("b", {}, `${name}: ${flag.yes ? "yes" : "no"}`),
      el("span", { class: "fine" }, ` ${flag.score.toFixed(3)} ${flag.yes ? "≥" : "<"} ${flag.threshold.toFixed(3)}`),
    ),
  );
  // What is unlike all that the model knows may be anything.
  const known = answer.refusals.every((refusal) => refusal.reason === "ambiguous");
  const open = known && answer.plausible.length > 1 && answer.plausible.length < Object.keys(answer.probabilities).length;
  const explanation = answer.explanation;
  const share = explanation?.inside_cell;
  const facts = {
    Picture: answer.picture,
    Model: answer.bundle_id,
    Time: `${answer.timings_ms.total.toFixed(0)} ms: ${Object.entries(answer.timings_ms).filter(([name]) => name !== "total").map(([name, ms]) => `${name} ${ms.toFixed(1)}`).join(", ")}`,
  };
  if (explanation) {
    facts["Runner-up"] = explanation.runner_up;
    facts["Heat on white cells"] = share == null ? "no white cell found" : percent(share);
  }
  const overlay = answer.id && (async (name) => save(await blob(`/v1/history/${answer.id}/overlay`), name));
  fill(
    body,
    el("p", { class: "kicker" }, answer.picture),
    title,
    answer.abstained && reasons("Why", answer.refusals),
    degraded(answer),
    el(
      "div",
      { class: "halves" },
      el("div", {}, seen ? canvas : el("p", { class: "fine" }, "The picture could not be kept."), slider),
      el(
        "div",
        {},
        flags.length > 0 && el("ul", { class: "flags", "aria-label": "Yes or no" }, ...flags),
        probabilities(answer, !answer.abstained),
        open && el("p", { class: "open" }, el("b", {}, "Cannot be excluded: "), answer.plausible.join(", ")),
        tail(answer, facts, forget, overlay),
      ),
    ),
  );
}
