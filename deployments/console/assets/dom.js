// Elements out of plain values. Text only ever becomes text nodes: nothing here reads a string as markup.

const SVG = "http://www.w3.org/2000/svg";
const TURNS = /[\u202A-\u202E\u2066-\u2069]/g; // they would turn the words around them, too

export function plain(value) {
  return String(value).replace(TURNS, "\uFFFD");
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "css") for (const [key, each] of Object.entries(value)) node.style.setProperty(key, each);
    else if (name === "value") node.value = value;
    else if (name === "href" && !/^(#|\/console)/.test(value)) throw new Error("links lead to pages of the console only");
    else node.setAttribute(name, value === true ? "" : plain(value));
  }
  add(node, children);
  return node;
}

export function add(node, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(plain(child)));
  }
  return node;
}

export const el = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const svg = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

export function show(node, ...children) {
  node.replaceChildren();
  return add(node, children);
}

/** Words that others chose: kept apart from what stands around them. */
export const said = (value) => el("bdi", {}, value);

export const empty = (title, ...what) => el("div", { class: "empty" }, el("p", { class: "strong" }, title), el("p", {}, what));

export const chip = (text, kind = "") => el("span", { class: `chip ${kind}` }, said(text));

export function field(label, control, hint) {
  const id = `f${(field.count = (field.count ?? 0) + 1)}`;
  control.id = id;
  return el("div", { class: "field" }, el("label", { for: id }, label), control, hint && el("small", {}, hint));
}

export function choice(options, value) {
  const node = el("select", {}, options.map(([each, label]) => el("option", { value: each }, label ?? each)));
  if (value !== undefined) node.value = value;
  return node;
}

export function button(label, onclick, kind = "") {
  return el("button", { type: "button", class: kind, onclick }, label);
}

/** A table. A column is [title, render(row), kind, order(row)]: kind "n" is a number, and one with an order sorts. */
export function table(caption, columns, rows, start) {
  const body = el("tbody");
  let by = start ?? null;
  const heads = columns.map(([title, , kind, order], place) => {
    const label = order ? el("button", { type: "button", class: "sort", onclick: () => sort(place) }, title) : title;
    return el("th", { scope: "col", class: kind }, label || el("span", { class: "hidden" }, "Actions"));
  });
  function sort(place) {
    by = by?.place === place ? { place, down: !by.down } : { place, down: columns[place][2] === "n" };
    draw();
  }
  function draw() {
    let shown = rows;
    if (by) {
      const order = columns[by.place][3];
      shown = [...rows].sort((a, b) => {
        const [x, y] = [order(a), order(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return (x < y ? -1 : x > y ? 1 : 0) * (by.down ? -1 : 1);
      });
    }
    heads.forEach((head, place) => {
      if (by?.place === place) head.setAttribute("aria-sort", by.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    show(body, shown.map((row) => el("tr", {}, columns.map(([, render, kind], place) =>
      el(place ? "td" : "th", { class: kind, scope: place ? null : "row" }, render(row))))));
  }
  draw();
  const whole = el("table", {}, el("caption", { class: "hidden" }, caption), el("thead", {}, el("tr", {}, heads)), body);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, whole);
}

const NUMBER = new Intl.NumberFormat("en");
export const number = (value) => (value === null || value === undefined ? "–" : NUMBER.format(value));
export const percent = (value, digits = 0) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)} %`);
export function seconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1 ? `${(1000 * value).toFixed(value < 0.01 ? 1 : 0)} ms` : value < 90 ? `${value.toFixed(2)} s` : `${Math.round(value / 60)} min`;
}
export function bytes(value) {
  const size = ["B", "KB", "MB", "GB"];
  let place = 0;
  while (value >= 1000 && place < 3) [value, place] = [value / 1000, place + 1];
  return `${place ? value.toFixed(1) : value} ${size[place]}`;
}
export function when(at) {
  const date = new Date(typeof at === "number" ? at * 1000 : at);
  const two = (value) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return el("time", { datetime: date.toISOString() }, `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`);
}
