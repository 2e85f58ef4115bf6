// How good each expert is at each skill, and where nobody is.

import { chip, choice, el, empty, field, number, percent, said, show, svg, table, when } from "/console/dom.js";
import { get } from "/console/api.js";

const kind = (value) => (value >= 0.75 ? "good" : value >= 0.4 ? "warn" : "bad");

/** One expert on one skill. That most are no good at a skill is no fault: it is one where the best is not. */
function cell(row, name) {
  const found = row.experts[name];
  if (!found) return el("span", { class: "quiet" }, "–");
  const label = `${percent(found.accuracy)}, ${percent(found.low)} to ${percent(found.high)}, ${number(found.asked)} answers`;
  const shown = kind(found.accuracy) === "bad" && name !== "best" ? "plain" : kind(found.accuracy);
  return el("span", { class: `cell ${shown}`, title: label }, percent(found.accuracy),
    el("small", {}, `${Math.round(100 * found.low)}–${Math.round(100 * found.high)} · ${number(found.asked)}`));
}

/** What those are expected to get right whom routing chose for a skill lately; nothing where it chose nobody on record. */
function chosen(row, counts = {}) {
  const known = Object.entries(counts).filter(([name]) => row.experts[name]);
  const asked = known.reduce((sum, [, count]) => sum + count, 0);
  if (!asked) return null;
  const accuracy = known.reduce((sum, [name, count]) => sum + count * row.experts[name].accuracy, 0) / asked;
  return { accuracy, asked, names: known.sort((a, b) => b[1] - a[1]).map(([name, count]) => `${name} ${count}`).join(", ") };
}

const NEWEST = 24;
const points = (row) => (row.before && row.now ? 100 * (row.now.accuracy - row.before.accuracy) : null);
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;

function moved(row) {
  const by = points(row);
  if (by === null) return el("span", { class: "quiet" }, "–");
  return el("span", { class: by > 0.05 ? "up" : by < -0.05 ? "bad" : "quiet" }, signed(by));
}

/** The accuracies of one expert from version to version, within their intervals; rows are the newest first. */
function course(expert, rows) {
  const steps = [...rows].reverse().filter((row) => row.now);
  const [from, to] = [steps[0].at, steps.at(-1).at];
  const x = (row) => (to > from ? (3 + (194 * (row.at - from)) / (to - from)).toFixed(1) : "100");
  const y = (value) => (57 - 54 * value).toFixed(1);
  const line = (each) => steps.map((row) => `${x(row)},${y(each(row))}`);
  const band = [...line((row) => row.now.high), ...line((row) => row.now.low).reverse()];
  const [first, last] = [steps[0].now, steps.at(-1).now];
  const label = `${expert}: ${percent(first.accuracy, 1)} at first, ${percent(last.accuracy, 1)} now, ${steps.length} versions`;
  return el("figure", { class: "course" }, el("figcaption", {}, el("b", {}, said(expert)), el("span", { class: "n" }, `${percent(first.accuracy)} → ${percent(last.accuracy)}`)),
    svg("svg", { viewBox: "0 0 200 60", preserveAspectRatio: "none", role: "img", "aria-label": label },
      [0, 0.5, 1].map((value) => svg("line", { x1: 0, x2: 200, y1: y(value), y2: y(value), class: "axis" })),
      svg("polygon", { points: band.join(" "), class: "band" }),
      svg("polyline", { points: line((row) => row.now.accuracy).join(" "), class: "mean" }),
      steps.map((row) => svg("line", { x1: x(row), x2: x(row), y1: y(row.now.accuracy), y2: y(row.now.accuracy), class: "point" }))),
    el("small", {}, when(from), to > from ? [" to ", when(to)] : null));
}

/** How records changed: of all experts or of one, over all or on one skill. */
async function changes(skills) {
  const first = await get("/v1/admin/skills/history?limit=1000");
  if (!first.data.length) {
    return el("section", { class: "card" }, el("h2", {}, "Changes over time"), empty("No version kept yet",
      "A service with a store keeps each version of its records: when it starts with a new file from ", el("code", {}, "symmoe profile build"), ", and when an expert joins or leaves."));
  }
  const names = [...new Set(first.data.map((row) => row.expert))].sort();
  const expert = choice([["", "every expert"], ...names.map((name) => [name])]);
  const skill = choice([["", "over all"], ...skills.map((name) => [name])]);
  const [charts, rows] = [el("div", { class: "courses" }), el("div")];
  const draw = (found) => {
    const shown = expert.value ? found.data.filter((row) => row.expert === expert.value) : found.data;
    const drawn = names.map((name) => [name, shown.filter((row) => row.expert === name)]).filter(([, each]) => each.filter((row) => row.now).length > (expert.value ? 0 : 1));
    show(charts, drawn.map(([name, each]) => course(name, each)));
    if (!drawn.length && shown.length) show(charts, el("p", { class: "quiet" }, "Nothing has changed since ", when(shown.at(-1).at), ". Build records anew with ", el("code", {}, "symmoe profile build"), ", or add an expert, and what became better or worse stands here."));
    show(rows, shown.length ? table("Changes of records", [
      ["When", (row) => when(row.at), "", (row) => row.at],
      ["Expert", (row) => said(row.expert), "", (row) => row.expert],
      ["What", (row) => chip(row.change, { added: "good", removed: "bad", updated: "on" }[row.change] ?? ""), "", (row) => row.change],
      ["Before", (row) => percent(row.before?.accuracy, 1), "n", (row) => row.before?.accuracy ?? null],
      ["Now", (row) => [percent(row.now?.accuracy, 1), row.now && el("small", {}, `${percent(row.now.low)} to ${percent(row.now.high)}`)], "n", (row) => row.now?.accuracy ?? null],
      ["Points", moved, "n", points],
      ["Answers", (row) => number((row.now ?? row.before)?.asked), "n", (row) => (row.now ?? row.before)?.asked ?? null],
      ["Skills changed", (row) => number(row.skills_changed), "n", (row) => row.skills_changed],
      ["Most on", (row) => (row.change === "updated" && row.most ? [said(row.most.skill), " ", moved(row.most)] : el("span", { class: "quiet" }, "–"))],
    ], shown.slice(0, NEWEST)) : empty("No change of this kind", "Its record on this skill never changed. Choose another skill or expert."), shown.length > NEWEST && el("p", { class: "quiet" }, `The newest ${NEWEST} of ${number(shown.length)}.`));
  };
  let found = first;
  skill.addEventListener("change", async () => {
    try {
      found = await get(`/v1/admin/skills/history?limit=1000&skill=${encodeURIComponent(skill.value)}`);
    } catch (error) {
      return void show(rows, el("p", { class: "bad" }, said(error.message)));
    }
    draw(found);
  });
  expert.addEventListener("change", () => draw(found));
  draw(found);
  return el("section", { class: "card" }, el("h2", {}, "Changes over time"),
    el("div", { class: "fields" }, field("Expert", expert), field("Skill", skill)), charts, rows);
}

export async function open(page) {
  const found = await get("/v1/admin/skills");
  const history = await changes(found.data.map((row) => row.skill));
  if (!found.data.length) {
    return void show(page, el("h1", {}, "Skills"), history, empty("No records yet", "Ask your experts what you know the answers of: ", el("code", {}, "symmoe profile build -o my.json --suite validation.jsonl"), "."));
  }
  for (const row of found.data) {
    const ranked = Object.entries(row.experts).sort((a, b) => b[1].accuracy - a[1].accuracy);
    row.best = ranked[0] ? { name: ranked[0][0], ...ranked[0][1] } : null;
    row.chosen = chosen(row, found.chosen[row.skill]);
  }
  const shown = choice([["topics", "topics"], ["facets", "formats and languages"], ["weak", "weak: best expert under 60 %"], ["thin", "thin: best expert asked under 20 times"]]);
  const body = el("div", { class: "framed matrix" });
  const fits = {
    topics: ({ topic }) => topic,
    facets: ({ topic }) => !topic,
    weak: ({ best, topic }) => topic && (!best || best.accuracy < 0.6),
    thin: ({ best, topic }) => topic && (!best || best.asked < 20),
  };
  const draw = () => {
    const rows = found.data.filter(fits[shown.value]);
    if (!rows.length) return show(body, empty("No such skill", { facets: "The records tell no formats or languages apart." }[shown.value] ?? "Every skill has an expert that is good at it, and was asked often enough to know."));
    show(body, table("Skills and experts", [
      ["Skill", (row) => said(row.skill), "", (row) => row.skill],
      ["Best", (row) => (row.best ? said(row.best.name) : "–"), "", (row) => row.best?.name ?? null],
      ["Best is", (row) => cell({ experts: row.best ? { best: row.best } : {} }, "best"), "n", (row) => row.best?.accuracy ?? null],
      ["Chosen is", (row) => (row.chosen ? el("span", { class: `cell ${kind(row.chosen.accuracy)}`, title: row.chosen.names }, percent(row.chosen.accuracy), el("small", {}, `${number(row.chosen.asked)} lately`)) : el("span", { class: "quiet" }, "–")), "n", (row) => row.chosen?.accuracy ?? null],
      ["Lost", (row) => (row.chosen && row.best ? percent(Math.max(0, row.best.accuracy - row.chosen.accuracy)) : el("span", { class: "quiet" }, "–")), "n", (row) => (row.chosen && row.best ? row.best.accuracy - row.chosen.accuracy : null)],
      ...found.experts.map(({ name }) => [name, (row) => cell(row, name), "n", (row) => row.experts[name]?.accuracy ?? null]),
    ], rows, { place: 2, down: false }));
  };
  shown.addEventListener("change", draw);
  show(page, el("h1", {}, "Skills"),
    el("p", { class: "quiet" }, "Accuracy on validation answers that called for the skill, its 95 % interval, and how many there were. The skills where even the best expert is weak come first. Chosen is what those are expected to get right whom routing asked first for the skill, by the last thousand traces; lost is what the best would add."),
    el("div", { class: "fields" }, field("Show", shown)), body,
    found.unrecorded.length > 0 && el("p", { class: "quiet" }, "Without a record, so asked by name only: ", found.unrecorded.map((each) => said(`${each} `))),
    history);
  draw();
}
