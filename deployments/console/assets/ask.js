// The playground: a question asked, its way shown as it happens, two settings side by side.

import { button, chip, choice, el, empty, field, number, percent, said, seconds, show } from "/console/dom.js";
import { get, post, stream } from "/console/api.js";
import { picture, tokens, words } from "/console/picture.js";
import { tell } from "/console/app.js";

const whole = (value) => (value === "" ? undefined : Number(value));

/** The choices of one column: which model, and how it may decide. */
function setting(title, models, usual) {
  const model = choice(models.map((each) => [each]), usual);
  const k = el("input", { type: "number", min: 1, max: 64, placeholder: "pool's" });
  const quality = el("input", { type: "number", min: 0, max: 1, step: "any", placeholder: "pool's" });
  const aggregate = choice([["", "pool's"], ["auto"], ["always"], ["never"]]);
  const most = el("input", { type: "number", min: 1, placeholder: "pool's" });
  const heat = el("input", { type: "number", min: 0, max: 2, step: "any", placeholder: "pool's" });
  const more = el("details", {}, el("summary", {}, "Settings"), el("div", { class: "fields" },
    field("Experts (k)", k), field("Quality, 0 to 1", quality), field("Aggregate", aggregate),
    field("Most tokens", most), field("Temperature", heat)));
  const read = () => {
    const symmoe = { k: whole(k.value), quality: whole(quality.value), aggregate: aggregate.value || undefined };
    return { model: model.value, max_tokens: whole(most.value), temperature: whole(heat.value), symmoe };
  };
  return { node: el("div", { class: "setting" }, field(title, model), more), read, model };
}

/** One answer on its way, and the picture beside it. */
function column(title) {
  const head = el("p", { class: "status" });
  const text = words("");
  const way = el("div", {});
  const share = el("p", { class: "share" });
  const node = el("section", { class: "column", "aria-label": title },
    el("div", { class: "card answer" }, el("h2", {}, title), text, head, share), way);

  async function ask(question, chosen, signal) {
    const id = crypto.randomUUID().replaceAll("-", "");
    const messages = [{ role: "user", content: question }];
    show(text);
    show(share);
    show(head, chip("asking", "on"));
    show(way, empty("Routing", "Who is asked, and why, comes first."));
    let over = false;
    if (chosen.model.startsWith("symmoe/")) {
      post("/v1/route", { model: chosen.model, messages, symmoe: chosen.symmoe }, { signal }).then((found) => {
        if (!over) show(way, picture(found));
      }, () => {});
    }
    const began = performance.now();
    let [first, spent, last] = [null, null, null];
    try {
      const body = { ...chosen, messages, stream: true, stream_options: { include_usage: true }, symmoe: { ...chosen.symmoe, explain: true } };
      for await (const event of stream("/v1/chat/completions", body, { signal, headers: { "x-request-id": id } })) {
        const piece = event.choices?.[0]?.delta?.content;
        if (piece) {
          if (first === null) show(head, chip("answering", "on"), ` first token after ${seconds((first = (performance.now() - began) / 1000))}`);
          text.append(document.createTextNode(piece.replace(/[\u202A-\u202E\u2066-\u2069]/g, "\uFFFD")));
        }
        if (event.symmoe) last = event.symmoe;
        if (event.usage) spent = event.usage;
      }
      over = true;
      if (last) show(way, picture(last));
      const trace = last?.traces?.[0];
      const priced = (last?.generations ?? []).reduce((sum, each) => sum + (each.cost ?? 0), 0);
      const used = spent ?? (last ? { prompt_tokens: tokens(last).prompt, completion_tokens: tokens(last).completion } : null);
      show(head, chip("answered", "good"), last && ` ${{ single: "one expert was trusted", aggregated: "several put together", named: "asked by name" }[last.path]} · `,
        trace && [el("b", {}, said(trace.answer.expert)), " · "], seconds((performance.now() - began) / 1000),
        used && ` · ${number(used.prompt_tokens)} + ${number(used.completion_tokens)} tokens`, priced > 0 && ` · cost ${priced.toPrecision(2)}`,
        trace?.posterior != null && ` · believed right ${percent(trace.posterior)}`);
    } catch (error) {
      over = true;
      if (error.name === "AbortError") return show(head, chip("stopped", "warn"));
      show(head, chip(error.code || "failed", "bad"), " ", said(error.message));
      show(way, empty("No answer", "Change the setting or the question, and ask again."));
    }
    const link = `#/traces/${id}`;
    show(share, el("a", { href: link }, "Trace"), button("Copy link", async () => {
      await navigator.clipboard.writeText(`${location.origin}/console${link}`);
      tell("The link is copied. It opens for this key, and for administrators.");
    }, "quiet"));
  }
  return { node, ask };
}

export async function open(page) {
  const models = (await get("/v1/models")).data.map((each) => each.id);
  const question = el("textarea", { rows: 3, required: true, placeholder: "Ask something …" });
  const [one, two] = [setting("Model", models, "symmoe/auto"), setting("Model B", models, "symmoe/best")];
  const both = el("input", { type: "checkbox", id: "both" });
  const settings = el("div", { class: "settings" }, one.node);
  const results = el("div", { class: "columns" });
  const go = el("button", { class: "main" }, "Ask");
  const stop = button("Stop", () => running?.abort());
  let running = null;
  stop.hidden = true;
  both.addEventListener("change", () => show(settings, one.node, both.checked && two.node));
  const form = el("form", { class: "card ask", onsubmit: async (event) => {
    event.preventDefault();
    running?.abort();
    const mine = (running = new AbortController());
    const chosen = both.checked ? [one, two] : [one];
    const columns = chosen.map((each, place) => column(both.checked ? `${"AB"[place]} · ${each.model.value}` : each.model.value));
    show(results, columns.map((each) => each.node));
    results.classList.toggle("two", both.checked);
    stop.hidden = false;
    await Promise.all(columns.map((each, place) => each.ask(question.value, chosen[place].read(), mine.signal)));
    if (running === mine) stop.hidden = true;
  } },
  field("Question", question, "Ctrl + Enter asks."), settings,
  el("div", { class: "actions" }, go, stop, el("label", { class: "check" }, both, " Compare two settings")));
  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  show(results, empty("Every choice, with its evidence", "Ask a question: beside the answer stand the skills it needs, how good each expert is expected to be, what each one said, and how they voted."));
  show(page, el("h1", {}, "Playground"), form, results);
  question.focus();
  return () => running?.abort();
}
