// How good each expert is at each skill, and where nobody is.

import { choice, el, empty, field, number, percent, said, show, table } from "/console/dom.js";
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

export async function open(page) {
  const found = await get("/v1/admin/skills");
  if (!found.data.length) {
    return void show(page, el("h1", {}, "Skills"), empty("No records yet", "Ask your experts what you know the answers of: ", el("code", {}, "symmoe profile build -o my.json --suite validation.jsonl"), "."));
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
    found.unrecorded.length > 0 && el("p", { class: "quiet" }, "Without a record, so asked by name only: ", found.unrecorded.map((each) => said(`${each} `))));
  draw();
}
