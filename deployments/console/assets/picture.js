// The way of a question: skills, experts, candidates, votes, times. Of an answer that just came and of a trace alike.

import { add, chip, el, empty, number, percent, said, seconds, svg } from "/console/dom.js";

const section = (title, note, ...inside) =>
  el("section", { class: "step" }, el("h3", {}, title, note && el("small", {}, note)), inside);

function bar(value, kind = "") {
  return el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: `fill ${kind}`, css: { width: `${100 * Math.max(0, Math.min(1, value))}%` } }));
}

/** An expected accuracy as a dot within its interval, from 0 to 1. */
export function interval(value, low, high, label) {
  const at = (each) => (100 * each).toFixed(2);
  return svg("svg", { class: "interval", viewBox: "0 0 100 12", preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("line", { x1: 0, x2: 100, y1: 6, y2: 6, class: "axis" }),
    low !== undefined && svg("line", { x1: at(low), x2: at(high), y1: 6, y2: 6, class: "span" }),
    svg("line", { x1: at(value), x2: at(value), y1: 1, y2: 11, class: "mean" }));
}

function skills(way) {
  if (!way.skills?.length) return section("Skills", null, el("p", { class: "quiet" }, way.path === "named" ? "The expert was named: nothing was routed." : "No skill came near."));
  const rows = way.skills.map(({ skill, similarity }) =>
    el("li", {}, el("span", { class: "name" }, said(skill)), bar(similarity), el("span", { class: "n" }, similarity.toFixed(2))));
  const facets = way.facets?.length ? el("p", { class: "chips" }, way.facets.map((each) => chip(each))) : null;
  return section("Skills", "cosine similarity", el("ul", { class: "bars" }, rows), facets);
}

function standings(way) {
  if (way.explanation) return way.explanation.standings;
  const names = Object.keys(way.accuracies ?? {});
  return (names.length ? names : Object.keys(way.shares ?? {})).map((expert) => ({
    expert, share: way.shares?.[expert] ?? 0, value: way.accuracies?.[expert],
    chosen: way.recruited?.includes(expert), why: "",
  })).sort((a, b) => b.share - a.share);
}

function experts(way) {
  const found = standings(way);
  if (!found.length || way.path === "named") {
    return section("Experts", null, el("p", {}, "Asked by name: ", (way.asked ?? []).map((each) => chip(each, "on"))));
  }
  const asked = new Set(way.asked ?? []);
  const rows = found.map((each) => {
    const known = each.value !== undefined && each.value !== null;
    const range = each.low === undefined ? "" : `${percent(each.low)} to ${percent(each.high)}`;
    const mark = asked.has(each.expert) ? chip("asked", "on") : each.chosen ? chip("recruited") : null;
    return el("tr", { class: asked.has(each.expert) ? "on" : "" },
      el("th", { scope: "row" }, said(each.expert), mark),
      el("td", {}, known && interval(each.value, each.low, each.high, `${percent(each.value)}, ${range}`)),
      el("td", { class: "n" }, percent(each.value), range && el("small", {}, range)),
      el("td", { class: "n" }, percent(each.share)),
      el("td", { class: "why" }, said(each.why ?? "")));
  });
  const head = ["Expert", "0 – 100 %", "Expected", "Share", "Why"].map((title, place) =>
    el("th", { scope: "col", class: place === 2 || place === 3 ? "n" : "" }, title));
  const whole = el("table", { class: "experts" }, el("caption", { class: "hidden" }, "Experts and their expected accuracy"),
    el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows));
  const rule = way.explanation?.recruiter ? `by the rule ${way.explanation.recruiter}` : "expected accuracy";
  return section("Experts", rule, el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Experts" }, whole));
}

function candidates(trace) {
  const weights = trace.verdicts ?? [];
  const most = Math.max(...weights.map((each) => each.weight), 0) || 1;
  const all = trace.synthesis ? [...trace.candidates, { ...trace.synthesis, aggregator: true }] : trace.candidates;
  const cards = all.map((each, place) => {
    const verdict = each.aggregator ? null : weights[place];
    const reward = verdict?.reward?.score;
    return el("article", { class: "candidate" },
      el("header", {}, el("b", {}, said(each.expert)), each.aggregator && chip("aggregator", "on"), chip(each.lane),
        each.finish_reason !== "stop" && chip(each.finish_reason, "warn"), each.shared && chip("shared")),
      each.text === undefined ? el("p", { class: "quiet" }, "Text not kept") : each.text ? words(each.text) : el("p", { class: "quiet" }, "Nothing came"),
      el("footer", {}, verdict && el("span", {}, "weight ", bar(verdict.weight / most), ` ${verdict.weight.toPrecision(3)}`),
        reward !== undefined && reward !== null && el("span", {}, `reward ${reward.toFixed(2)}`),
        el("span", {}, `${number(each.prompt_tokens)} + ${number(each.completion_tokens)} tokens`)));
  });
  return section("Candidates", `${trace.candidates.length} side by side`, el("div", { class: "candidates" }, cards));
}

function votes(trace) {
  const { answer } = trace;
  if (!answer.votes?.length) return null;
  const rows = answer.votes.map((each, place) => el("li", {},
    el("span", { class: "name" }, each.answer === undefined ? `answer ${place + 1}` : each.answer ? said(each.answer) : el("span", { class: "quiet" }, "no answer")),
    bar(each.share, place ? "rest" : ""), el("span", { class: "n" }, percent(each.share)),
    el("span", { class: "from" }, [...new Set(each.experts)].map((expert) => chip(expert)))));
  const how = { vote: "the vote decided", synthesis: "the aggregator wrote the answer", fallback: "the aggregator failed, the vote stands" }[answer.origin];
  return section("Votes", how, el("ul", { class: "bars votes" }, rows),
    answer.why && el("p", { class: "quiet" }, said(answer.why)),
    trace.posterior !== null && trace.posterior !== undefined && el("p", {}, "Believed right with ", el("b", {}, percent(trace.posterior)), " by the records."));
}

const KINDS = { route: "think", score: "think", aggregate: "think", wait: "wait", load: "load", generate: "work" };

function times(way) {
  const spans = way.spans ?? [];
  const whole = Math.max(way.seconds?.total ?? 0, ...spans.map((each) => each.began + each.seconds));
  if (!spans.length || !whole) return null;
  const lines = [];
  for (const span of spans) {
    const name = span.expert ?? span.name;
    const last = lines.at(-1);
    if (span.expert && last?.name === name && last.expert && span.name !== "wait" && last.spans.at(-1).name !== "generate") last.spans.push(span);
    else lines.push({ name, expert: Boolean(span.expert), spans: [span] });
  }
  const rows = lines.map((line) => el("li", {},
    el("span", { class: "name" }, said(line.name)),
    el("span", { class: "track wide", "aria-hidden": "true" }, line.spans.map((span) => el("span", {
      class: `piece ${KINDS[span.name] ?? "think"}`, title: `${span.name} ${seconds(span.seconds)}`,
      css: { left: `${(100 * span.began) / whole}%`, width: `${Math.max(0.4, (100 * span.seconds) / whole)}%` },
    }))),
    el("span", { class: "n" }, seconds(line.spans.reduce((sum, each) => sum + each.seconds, 0)),
      el("span", { class: "hidden" }, line.spans.map((each) => ` ${each.name} ${seconds(each.seconds)}`)))));
  const legend = [["think", "decide"], ["wait", "wait"], ["load", "load"], ["work", "generate"]].map(([kind, label]) =>
    el("span", {}, el("i", { class: `dot ${kind}` }), label));
  return section("Times", `${seconds(whole)} in all${way.seconds?.first_token ? `, first token after ${seconds(way.seconds.first_token)}` : ""}`,
    el("ul", { class: "bars waterfall" }, rows), el("p", { class: "legend" }, legend));
}

export function tokens(way) {
  let [prompt, completion] = [0, 0];
  for (const trace of way.traces ?? []) {
    for (const each of [...trace.candidates, ...(trace.synthesis ? [trace.synthesis] : [])]) {
      if (each.shared) continue;
      prompt += each.prompt_tokens;
      completion += each.completion_tokens;
    }
  }
  return { prompt, completion };
}

/** Text that others wrote, as it is. */
export function words(value) {
  return add(el("div", { class: "words", dir: "auto", tabindex: "0", role: "group", "aria-label": "Text" }), value);
}

/** All that is known so far. */
export function picture(way) {
  if (!way) return empty("No answer came about", "The request ended before anything was routed.");
  const traces = way.traces ?? [];
  return el("div", { class: "way" }, skills(way), experts(way),
    traces.map((trace) => [candidates(trace), votes(trace)]), times(way),
    way.failures?.length ? section("Failures", null, el("p", {}, way.failures.map((each) => chip(`${each.expert}: ${each.code}`, "bad")))) : null);
}

/** What ran when: a line for each expert, as the traces of a time have it. */
export function timeline(found) {
  const names = [...new Set(found.data.map((each) => each.expert))].sort();
  const whole = found.to - found.from;
  const rows = names.map((name) => {
    const spans = found.data.filter((each) => each.expert === name && each.at + each.seconds >= found.from);
    const told = (kind) => spans.filter((each) => each.name === kind);
    return el("li", {}, el("span", { class: "name" }, said(name)), el("span", { class: "track wide", "aria-hidden": "true" }, spans.map((each) => {
      const [began, ended] = [Math.max(0, each.at - found.from), Math.min(whole, each.at + each.seconds - found.from)];
      return el("span", { class: `piece ${each.name === "load" ? "load" : "work"}`, title: `${each.name} ${seconds(each.seconds)}`, css: { left: `${(100 * began) / whole}%`, width: `${Math.max(0.15, (100 * (ended - began)) / whole)}%` } });
    })), el("span", { class: "n" }, `${told("generate").length}`, el("span", { class: "hidden" }, " answers")));
  });
  return rows.length ? [el("ul", { class: "bars waterfall" }, rows), el("p", { class: "legend" }, [["load", "load"], ["work", "generate"]].map(([kind, label]) => el("span", {}, el("i", { class: `dot ${kind}` }), label)))]
    : el("p", { class: "quiet" }, "Nothing ran in this time.");
}
