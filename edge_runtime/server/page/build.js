// Build: elements and words that several parts of the page use.

// el("p", { class: "fine" }, "text", otherElement); functions become listeners, true becomes an empty attribute.
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  return fill(element, ...children);
}

// Replace what an element holds; null and false are nothing.
export function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child != null && child !== false));
  return element;
}

export const percent = (share) => `${(100 * share).toFixed(1)} %`;

export function moment(iso) {
  const time = new Date(iso);
  const today = time.toDateString() === new Date().toDateString();
  const form = today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" };
  return new Intl.DateTimeFormat(undefined, form).format(time);
}

// Read out by screen readers, seen by nobody.
export function say(text) {
  document.getElementById("status").textContent = text;
}

// A slider for how strongly the heat shows. change(0..1) is called at once and whenever it moves.
export function strengthSlider(change) {
  const output = el("output", { for: "strength" });
  const input = el("input", { id: "strength", type: "range", min: 0, max: 100, step: 5, value: 50 });
  const moved = () => {
    output.textContent = `${input.value} %`;
    input.setAttribute("aria-valuetext", `${input.value} percent`);
    change(input.value / 100);
  };
  input.addEventListener("input", moved);
  queueMicrotask(moved);
  return el(
    "div",
    { class: "strength" },
    el("label", { for: "strength" }, "Heatmap"),
    input,
    output,
    el("div", { class: "scale", "aria-hidden": "true" }, el("span", {}, "no evidence"), el("i", {}), el("span", {}, "peak")),
  );
}

// Probabilities as a table with bars, most probable first; where there is no answer they must not look like one.
export function probabilities(answer, answered, most = Infinity) {
  const ranked = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]).slice(0, most);
  const rows = ranked.map(([label, share]) => {
    const fill = el("i", {});
    fill.style.width = `${100 * share}%`;
    const said = answered && label === answer.label;
    return el(
      "tr",
      { class: said ? "said" : null },
      el("th", { scope: "row" }, label),
      el("td", { class: "bar", "aria-hidden": "true" }, el("span", {}, fill)),
      el("td", { class: "number" }, percent(share)),
    );
  });
  return el(
    "table",
    { class: answered ? "shares" : "shares moot" },
    el("caption", {}, !answered ? "Not an answer: what it would have said" : most === Infinity ? "Probabilities" : `The ${rows.length} most probable`),
    el("thead", { class: "unseen" }, el("tr", {}, ...["Label", "", "Probability"].map((text) => el(text ? "th" : "td", text ? { scope: "col" } : {}, text)))),
    el("tbody", {}, ...rows),
  );
}

// Why there is no answer.
export function reasons(title, refusals) {
  return el(
    "div",
    { class: "refused" },
    el("p", {}, el("b", {}, title)),
    el("ul", {}, ...refusals.map((refusal) => el("li", {}, refusal.text))),
  );
}

export function degraded(answer) {
  return answer.degraded && el("p", { class: "alarm" }, "Degraded model: it did not pass its parity gates.");
}

// Save a response under a name; the browser's own download cannot send the token.
export async function save(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// The lower end of every answer: what it is of, and what can be done with it.
export function tail(answer, facts, forget, overlay) {
  const list = Object.entries(facts).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]);
  const stem = String(answer.picture ?? answer.field).replace(/\.[^.]*$/, "") || "answer";
  const asJson = () => save(new Blob([JSON.stringify(answer, null, 2)], { type: "application/json" }), `${stem}.json`);
  return el(
    "details",
    {},
    el("summary", {}, "Details"),
    el("dl", {}, ...list),
    el(
      "div",
      { class: "row" },
      el("button", { type: "button", onclick: asJson }, "Save as JSON"),
      overlay && el("button", { type: "button", onclick: () => overlay(`${stem}.overlay.png`) }, "Save the overlay"),
      answer.id && el("button", { type: "button", class: "danger", onclick: forget }, "Forget this answer"),
    ),
  );
}
