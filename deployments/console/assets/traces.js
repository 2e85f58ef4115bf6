// Earlier requests: searched for, opened, and looked back on under other settings.

import { button, chip, choice, el, empty, field, number, percent, said, seconds, show, table, when } from "/console/dom.js";
import { get, post } from "/console/api.js";
import { picture, words } from "/console/picture.js";

const HOURS = [["", "any time"], ["1", "last hour"], ["24", "last day"], ["168", "last week"]];
const GOOD = new Set(["answered", "cached"]);
const outcome = (value) => chip(value, GOOD.has(value) ? "good" : value === "left" ? "warn" : "bad");

function rows(found) {
  return table("Traces", [
    ["Time", (row) => el("a", { href: `#/traces/${row.id}` }, when(row.at))],
    ["Outcome", (row) => outcome(row.outcome)],
    ["Model", (row) => said(row.model)],
    ["Path", (row) => row.path ?? "–"],
    ["Experts", (row) => row.experts.map((each) => chip(each))],
    ["Skills", (row) => row.skills.slice(0, 2).map((each) => chip(each))],
    ["Tokens", (row) => number(row.tokens.prompt + row.tokens.completion), "n", (row) => row.tokens.prompt + row.tokens.completion],
    ["Took", (row) => seconds(row.milliseconds / 1000), "n", (row) => row.milliseconds],
    ["Key", (row) => said(row.key)],
  ], found);
}

async function list(page, query, who) {
  const names = { id: "Id or request", expert: "Expert", skill: "Skill", outcome: "Outcome", model: "Model", ...(who.scope === "admin" ? { key: "Key" } : {}) };
  const inputs = Object.fromEntries(Object.keys(names).map((name) => [name, el("input", { type: "search", value: query.get(name) ?? "", spellcheck: "false" })]));
  const hours = choice(HOURS, query.get("hours") ?? "");
  const found = el("div", { class: "framed" });
  async function search() {
    const asked = new URLSearchParams({ limit: 100 });
    for (const [name, input] of Object.entries(inputs)) if (input.value.trim()) asked.set(name, input.value.trim());
    if (hours.value) asked.set("since", String(Date.now() / 1000 - 3600 * hours.value));
    const shown = [];
    const body = el("div");
    show(found, body);
    async function more() {
      if (shown.length) asked.set("before", String(shown.at(-1).at));
      const part = await get(`/v1/traces?${asked}`);
      shown.push(...part.data);
      if (!shown.length) return show(body, empty("No trace fits", "Loosen the search, or ask something in the ", el("a", { href: "#/ask" }, "playground"), "."));
      show(body, rows(shown), part.has_more && button("Show older ones", more),
        !part.texts && el("p", { class: "quiet" }, "Texts are not kept: only how each request went. ", el("code", {}, "symmoe serve --traces text"), " keeps them."));
    }
    await more();
  }
  const fail = (error) => show(found, empty("The search failed", error.message));
  const form = el("form", { class: "card search", role: "search", onsubmit: (event) => { event.preventDefault(); search().catch(fail); } },
    Object.entries(names).map(([name, title]) => field(title, inputs[name])), field("Time", hours), el("button", { class: "main" }, "Search"));
  show(page, el("h1", {}, "Traces"), form, found);
  await search();
}

function whatIf(trace) {
  const experts = Object.keys(trace.symmoe.shares ?? {});
  const k = el("input", { type: "number", min: 1, max: 64 });
  const quality = el("input", { type: "number", min: 0, max: 1, step: "any" });
  const rule = choice([["", "the pool's"], ["symmoe"], ["published"], ["published-code"]]);
  const aggregate = choice([["", "the model's"], ["auto"], ["always"], ["never"]]);
  const without = choice([["", "nobody"], ...experts.map((each) => [each])]);
  const result = el("div", { role: "status" });
  const form = el("form", { class: "card", onsubmit: async (event) => {
    event.preventDefault();
    const body = { without: without.value ? [without.value] : [] };
    if (k.value) body.k = Number(k.value);
    if (quality.value) body.quality = Number(quality.value);
    if (rule.value) body.recruiter = rule.value;
    if (aggregate.value) body.aggregate = aggregate.value;
    try {
      const told = await post(`/v1/traces/${trace.id}/what-if`, body);
      show(result, told.answer ? [words(told.answer.text), el("p", {}, told.path, " · ", told.asked.map((each) => chip(each, told.missing.includes(each) ? "warn" : "on")),
        told.posterior != null && ` believed right ${percent(told.posterior)}`)] : el("p", { class: "bad" }, said(told.refused)),
      !told.complete && el("p", { class: "quiet" }, "Not on record: ", told.missing.map((each) => chip(each, "warn")), " – the answer is made of the others."));
    } catch (error) {
      show(result, el("p", { class: "bad" }, said(error.message)));
    }
  } },
  el("h2", {}, "What if"),
  el("p", { class: "quiet" }, "Answered from what the experts said then; nobody is asked again."),
  el("div", { class: "fields" }, field("Experts (k)", k), field("Without", without), field("Quality, 0 to 1", quality), field("Recruiter", rule), field("Aggregate", aggregate)),
  el("button", {}, "Look back"), result);
  return form;
}

async function one(page, ident) {
  const trace = await get(`/v1/traces/${encodeURIComponent(ident)}`).catch((error) => {
    if (error.status !== 404) throw error;
    show(page, el("h1", {}, "Trace"), empty("No such trace", said(error.message), " ", el("a", { href: "#/traces" }, "Search for others"), "."));
  });
  if (!trace) return;
  const facts = [["Outcome", outcome(trace.outcome)], ["Model", said(trace.model)], ["Path", trace.path ?? "–"], ["When", when(trace.at)],
    ["Took", seconds(trace.seconds)], ["Tokens", `${number(trace.tokens.prompt)} + ${number(trace.tokens.completion)}`],
    trace.symmoe?.cost > 0 && ["Cost", trace.symmoe.cost.toPrecision(2)], ["Key", said(trace.key)], ["Request", said(trace.request)], trace.batch && ["Batch", said(trace.batch)]].filter(Boolean);
  const answer = trace.symmoe?.traces?.[0]?.answer;
  show(page, el("p", { class: "back" }, el("a", { href: "#/traces" }, "← Traces")), el("h1", {}, "Trace ", el("code", {}, said(trace.id.slice(0, 8)))),
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    el("div", { class: "columns" }, el("div", { class: "column" }, el("div", { class: "way" },
    trace.messages && el("section", { class: "card" }, el("h2", {}, "Question"), trace.messages.map((each) => [el("p", { class: "quiet" }, each.role), words(each.content ?? "")])),
    answer && el("section", { class: "card" }, el("h2", {}, "Answer of ", said(answer.expert)),
      answer.text === undefined ? el("p", { class: "quiet" }, "Texts are not kept here. ", el("code", {}, "symmoe serve --traces text"), " keeps them.") : words(answer.text)),
    trace.texts && answer && whatIf(trace)), picture(trace.symmoe))));
}

export async function open(page, [ident], query, who) {
  await (ident ? one(page, ident) : list(page, query, who));
}
