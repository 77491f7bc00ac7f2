// Scanned: a field's answer on the page: its cells on the field, counted, and side by side with their heat.

import { bitmap } from "/api.js";
import { degraded, el, fill, percent, probabilities, reasons, say, strengthSlider, tail } from "/build.js";
import { draw, layers } from "/heat.js";

const LEFT_OUT = {
  "field refused": "the field was refused",
  cut: "cut by the border",
  "no answer": "no answer",
};

const answered = (cell) => !cell.abstained && cell.left_out !== "field refused";
const flagged = (cell) => (answered(cell) ? Object.entries(cell.flags).filter(([, flag]) => flag.yes).map(([name]) => name) : []);
const said = (cell) => (answered(cell) ? percent(cell.probability) : "no answer");
const named = (cell) => (answered(cell) ? `${cell.label}, ${said(cell)}` : said(cell));

export function spoken(answer) {
  const counted = answer.cells.filter((cell) => !cell.left_out).length;
  const refused = answer.refusals.length ? ` The field was refused. ${answer.refusals[0].text}` : "";
  return `${answer.cells.length} cells found, ${counted} counted.${refused}`;
}

function counts(cells) {
  const counted = cells.filter((cell) => !cell.left_out);
  const numbers = new Map();
  for (const cell of counted) numbers.set(cell.label, (numbers.get(cell.label) ?? 0) + 1);
  const rows = [...numbers].sort((a, b) => b[1] - a[1]).map(([label, number]) => {
    const fill = el("i", {});
    fill.style.width = `${(100 * number) / counted.length}%`;
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, label),
      el("td", { class: "bar", "aria-hidden": "true" }, el("span", {}, fill)),
      el("td", { class: "number" }, String(number)),
      el("td", { class: "number" }, percent(number / counted.length)),
    );
  });
  if (!rows.length) return el("p", {}, "No cell is counted.");
  const head = ["Label", "", "Cells", "Share"].map((text) => el(text ? "th" : "td", text ? { scope: "col" } : {}, text));
  return el(
    "table",
    { class: "shares counts" },
    el("caption", {}, `Differential of ${counted.length} ${counted.length === 1 ? "cell" : "cells"}`),
    el("thead", { class: "unseen" }, el("tr", {}, ...head)),
    el("tbody", {}, ...rows),
  );
}

// Cells in groups: what is flagged first, then labels by how many they are; cells by how probable. What is left out of
// the count comes last.
function groups(cells) {
  const found = new Map();
  for (const cell of cells) {
    const key = cell.left_out ? `Left out: ${LEFT_OUT[cell.left_out] ?? cell.left_out}` : cell.label;
    found.set(key, [...(found.get(key) ?? []), cell]);
  }
  const last = (key) => key.startsWith("Left out: ");
  const any = (list) => list.some((cell) => flagged(cell).length);
  return [...found]
    .sort(([a, x], [b, y]) => last(a) - last(b) || any(y) - any(x) || y.length - x.length)
    .map(([key, list]) => [key, list.sort((a, b) => b.probability - a.probability)]);
}

export async function showScanned(body, answer, forget) {
  const field = answer.id ? await bitmap(`/v1/history/${answer.id}/picture`) : null;
  const sheet = answer.id && answer.cells.length ? await bitmap(`/v1/history/${answer.id}/cells`) : null;
  const { px, columns } = answer.tiles;
  let chosen = null;
  let strength = 0.5;

  const canvas = el("canvas", { role: "img", class: "seen" });
  canvas.setAttribute("aria-label", `The field ${answer.field} with its ${answer.cells.length} cells marked`);
  if (field) [canvas.width, canvas.height] = [field.width, field.height];
  const scale = field ? field.width / answer.width : 1;
  const drawField = () => {
    if (!field) return;
    const pen = canvas.getContext("2d");
    pen.drawImage(field, 0, 0);
    const unit = Math.max(1, field.width / 400);
    for (const cell of answer.cells) {
      const [left, top, width, height] = cell.box.map((value) => value * scale);
      const it = cell === chosen;
      for (const [shade, wide] of [["white", it ? 6 : 3], [it ? "#d0006f" : cell.left_out ? "#777" : "#5b2a9d", it ? 4 : 1.5]]) {
        pen.strokeStyle = shade;
        pen.lineWidth = wide * unit;
        pen.strokeRect(left, top, width, height);
      }
    }
  };

  const detail = el("div", { class: "detail" });
  const views = [];
  const view = (cell, side) => {
    const tile = document.createElement("canvas");
    tile.width = tile.height = px;
    const at = answer.cells.indexOf(cell);
    if (sheet) tile.getContext("2d").drawImage(sheet, (at % columns) * px, Math.floor(at / columns) * px, px, px, 0, 0, px, px);
    const shown = el("canvas", { width: side, height: side, "aria-hidden": "true" });
    const over = layers(cell.heatmap, cell.placement, side);
    if (side === px) over.line = null; // too small for it
    return { shown, redraw: () => draw(shown, tile, over, strength) };
  };
  let large = null;
  const choose = (cell) => {
    chosen = cell;
    for (const [button, other] of buttons) button.setAttribute("aria-pressed", String(other === cell));
    drawField();
    large = view(cell, 2 * px);
    large.redraw();
    fill(
      detail,
      large.shown,
      el(
        "div",
        {},
        el("h3", {}, `Cell ${cell.number}: ${answered(cell) ? cell.label : said(cell)}`),
        cell.left_out ? el("p", { class: "fine" }, `Left out of the count: ${LEFT_OUT[cell.left_out] ?? cell.left_out}.`) : null,
        cell.refusals.length ? reasons("Why no answer", cell.refusals) : null,
        flagged(cell).length ? el("p", { class: "flag" }, `Flagged: ${flagged(cell).join(", ")}`) : null,
        probabilities(cell, answered(cell), 3),
      ),
    );
    detail.scrollIntoView({ block: "nearest" });
    say(`Cell ${cell.number}: ${named(cell)}. Marked in the field.`);
  };
  const buttons = [];
  const sections = groups(answer.cells).map(([key, cells]) =>
    el(
      "section",
      { class: "group" },
      el("h3", {}, `${key} `, el("span", { class: "fine" }, String(cells.length))),
      el(
        "ul",
        { class: "cells" },
        ...cells.map((cell) => {
          const small = view(cell, px);
          views.push(small);
          const marks = flagged(cell);
          const button = el(
            "button",
            { type: "button", "aria-pressed": "false", class: marks.length ? "marked" : null, onclick: () => choose(cell) },
            small.shown,
            el("span", {}, el("span", { class: "unseen" }, `Cell ${cell.number}, ${answered(cell) ? `${cell.label}, ` : ""}`), said(cell)),
            marks.length ? el("span", { class: "unseen" }, `, flagged ${marks.join(", ")}`) : null,
          );
          buttons.push([button, cell]);
          return el("li", {}, button);
        }),
      ),
    ),
  );
  canvas.addEventListener("click", (event) => {
    const [x, y] = [event.offsetX, event.offsetY].map((at) => (at * answer.width) / canvas.clientWidth);
    const hit = answer.cells.find(({ box: [left, top, width, height] }) => x >= left && x < left + width && y >= top && y < top + height);
    if (hit) choose(hit);
  });

  const counted = answer.cells.filter((cell) => !cell.left_out).length;
  const blasts = answer.cells.filter((cell) => !cell.left_out && flagged(cell).length);
  const facts = {
    Field: `${answer.field}, ${answer.width} × ${answer.height} px`,
    "Red cells": answer.red_cell_px == null ? "too few to measure" : `${answer.red_cell_px.toFixed(1)} px wide`,
    Model: answer.bundle_id,
    Time: `${answer.timings_ms.total.toFixed(0)} ms`,
  };
  fill(
    body,
    el("p", { class: "kicker" }, answer.field),
    answer.refusals.length
      ? el("p", { class: "verdict none" }, "Field refused")
      : counted
        ? el("p", { class: "verdict" }, `${counted} `, el("span", {}, `${counted === 1 ? "cell" : "cells"} counted, ${answer.cells.length} found`))
        : el("p", { class: "verdict none" }, "No cell counted ", el("span", {}, `${answer.cells.length || "none"} found`)),
    answer.refusals.length ? reasons("No cell of this field is counted", answer.refusals) : null,
    answer.cells.length > 0 && degraded(answer.cells[0]),
    el(
      "div",
      { class: "halves wide-left" },
      el("div", {}, field ? canvas : null),
      el(
        "div",
        {},
        blasts.length ? el("ul", { class: "flags", "aria-label": "Flagged cells" }, el("li", { class: "yes" }, el("b", {}, `${blasts.length} flagged: ${[...new Set(blasts.flatMap(flagged))].join(", ")}`))) : null,
        counts(answer.cells),
        tail(answer, facts, forget, null),
      ),
    ),
    detail,
    answer.cells.length
      ? strengthSlider((value) => {
          strength = value;
          for (const each of views) each.redraw();
          large?.redraw();
        })
      : null,
    ...sections,
  );
  drawField();
}
