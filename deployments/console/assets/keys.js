// Who may ask, and what each has used.

import { button, chip, choice, el, empty, field, number, said, show, table, when } from "/console/dom.js";
import { get, post, remove } from "/console/api.js";
import { tell } from "/console/app.js";

const limit = (value) => (value === null ? "–" : number(value));
const budget = (row) => (row.budget === null ? "–" : `${number(row.budget)}${row.budget_per === "ever" ? "" : ` a ${row.budget_per}`}`);
const date = (value) => (value ? when(value) : "–");

const cost = (value, currency) => (value ? `${value < 0.01 ? value.toPrecision(2) : value.toFixed(2)} ${currency}`.trim() : "–");
const WAYS = [["expert", "by expert"], ["day", "by day"], ["key", "by key"]];

/** What was used: of everybody for an administrator, else of this key. Nothing where the service does not count. */
function usage(who) {
  const admin = who.scope === "admin";
  const way = choice(admin ? WAYS : WAYS.slice(0, 2), admin ? "key" : "expert");
  const days = choice([["1", "today"], ["7", "7 days"], ["30", "30 days"], ["365", "365 days"]], "30");
  const [body, whole] = [el("div", { class: "framed" }), el("section", { class: "card" })];
  async function draw() {
    const from = new Date(Date.now() - 86_400_000 * (days.value - 1)).toISOString().slice(0, 10);
    const found = await get(`/v1/${admin ? "admin/" : ""}usage?by=${way.value}&from=${from}`);
    const most = Math.max(1, ...found.data.map((each) => each.prompt_tokens + each.completion_tokens));
    const name = (row) => said(row.name ?? row[way.value]);
    const tokens = (row) => row.prompt_tokens + row.completion_tokens;
    const columns = [
      [{ key: "Key", expert: "Expert", day: "Day" }[way.value], name, "", (row) => row.name ?? row[way.value]],
      way.value !== "expert" && ["Requests", (row) => number(row.requests), "n", (row) => row.requests],
      ["Generations", (row) => number(row.generations), "n", (row) => row.generations],
      ["Prompt tokens", (row) => number(row.prompt_tokens), "n", (row) => row.prompt_tokens],
      ["Completion tokens", (row) => number(row.completion_tokens), "n", (row) => row.completion_tokens],
      ["Cost", (row) => cost(row.cost, found.currency), "n", (row) => row.cost],
      ["Tokens", (row) => el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: "fill", css: { width: `${(100 * tokens(row)) / most}%` } })), "", tokens],
    ].filter(Boolean);
    show(body, found.data.length ? table("Usage", columns, found.data) : empty("Nothing was used", "Ask something, or look at more days."));
  }
  draw().then(() => show(whole, el("h2", {}, "Usage"), el("div", { class: "fields" }, field("Show", way), field("Of", days)), body), (error) => {
    if (error.status === 404) whole.remove();
    else show(whole, el("p", { class: "bad" }, said(error.message)));
  });
  for (const each of [way, days]) each.addEventListener("change", () => draw().catch((error) => tell(error.message, "bad")));
  return whole;
}

export async function open(page, rest, query, who) {
  const own = el("section", { class: "card" }, el("h2", {}, "This key"), el("dl", { class: "facts" },
    [["Id", said(who.id)], ["Scope", chip(who.scope, who.scope === "admin" ? "on" : "")], ["Requests a minute", limit(who.requests_per_minute)],
      ["Tokens a minute", limit(who.tokens_per_minute)], ["Budget", budget(who)]].map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))));
  if (who.scope !== "admin") return void show(page, el("h1", {}, "Keys"), own, usage(who));
  const [list, made] = [el("div", { class: "framed" }), el("div", { role: "status" })];

  const once = (key) => show(made, el("p", {}, "The key of ", said(key.name), ". It is shown this once: keep it now."), el("code", { class: "secret", tabindex: "0" }, key.key));
  async function draw() {
    const found = await get("/v1/admin/keys");
    show(list, found.data.length ? table("Keys", [
      ["Name", (row) => said(row.name), "", (row) => row.name],
      ["Id", (row) => el("code", {}, row.id)],
      ["State", (row) => chip(row.state, row.state === "active" ? "good" : "bad"), "", (row) => row.state],
      ["Scope", (row) => chip(row.scope, row.scope === "admin" ? "on" : ""), "", (row) => row.scope],
      ["Requests/min", (row) => limit(row.requests_per_minute), "n"],
      ["Tokens/min", (row) => limit(row.tokens_per_minute), "n"],
      ["Budget", (row) => budget(row), "n", (row) => row.budget],
      ["Made", (row) => date(row.created), "", (row) => row.created],
      ["Ends", (row) => date(row.expires)],
      ["", (row) => row.state === "active" && button("Rotate", async () => {
        if (!confirm(`Make a new key for ${row.name}? This one is good for 24 hours more.`)) return;
        await post(`/v1/admin/keys/${row.id}/rotate`, {}).then(once, (error) => tell(error.message, "bad"));
        await draw();
      }, "quiet")],
      ["", (row) => row.state === "active" && button("Revoke", async () => {
        if (!confirm(`Revoke ${row.name} for good?`)) return;
        await remove(`/v1/admin/keys/${row.id}`).then(() => tell(`${row.name} is revoked`), (error) => tell(error.message, "bad"));
        await draw();
      }, "quiet danger")],
    ], found.data) : empty("No keys yet", found.required ? "Make one above." : "On this machine none is asked for. Make one before the service listens to others."));
  }
  const inputs = {
    name: el("input", { required: true, maxlength: 100 }), scope: choice([["ask", "ask"], ["admin", "admin"]]),
    requests_per_minute: el("input", { type: "number", min: 1 }), tokens_per_minute: el("input", { type: "number", min: 1 }),
    budget: el("input", { type: "number", min: 0, step: "any" }), budget_per: choice([["month", "a month"], ["day", "a day"], ["ever", "for ever"]]),
    expires_days: el("input", { type: "number", min: 0.001, step: "any" }),
  };
  const form = el("form", { class: "card", onsubmit: async (event) => {
    event.preventDefault();
    const body = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.type === "number" ? (input.value ? Number(input.value) : null) : input.value]));
    try {
      const key = await post("/v1/admin/keys", body);
      form.reset();
      once(key);
    } catch (error) {
      show(made, el("p", { class: "bad" }, said(error.message)));
    }
    await draw();
  } }, el("h2", {}, "New key"), el("div", { class: "fields" }, field("Name", inputs.name), field("Scope", inputs.scope),
    field("Requests a minute", inputs.requests_per_minute), field("Tokens a minute", inputs.tokens_per_minute), field("Budget", inputs.budget), field("Budget is for", inputs.budget_per), field("Ends after days", inputs.expires_days)),
  el("button", { class: "main" }, "Make key"), made);
  show(page, el("h1", {}, "Keys"), own, form, list, usage(who));
  await draw();
}
