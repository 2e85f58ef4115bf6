// Who may ask, and what each has used.

import { button, chip, choice, el, empty, field, number, said, show, table, when } from "/console/dom.js";
import { get, post, remove } from "/console/api.js";
import { tell } from "/console/app.js";

const limit = (value) => (value === null ? "–" : number(value));
const date = (value) => (value ? when(value) : "–");

export async function open(page, rest, query, who) {
  const own = el("section", { class: "card" }, el("h2", {}, "This key"), el("dl", { class: "facts" },
    [["Id", said(who.id)], ["Scope", chip(who.scope, who.scope === "admin" ? "on" : "")], ["Requests a minute", limit(who.requests_per_minute)],
      ["Tokens a minute", limit(who.tokens_per_minute)]].map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))));
  if (who.scope !== "admin") return void show(page, el("h1", {}, "Keys"), own);
  const [list, made] = [el("div", { class: "framed" }), el("div", { role: "status" })];

  async function draw() {
    const found = await get("/v1/admin/keys");
    show(list, found.data.length ? table("Keys", [
      ["Name", (row) => said(row.name), "", (row) => row.name],
      ["Id", (row) => el("code", {}, row.id)],
      ["State", (row) => chip(row.state, row.state === "active" ? "good" : "bad"), "", (row) => row.state],
      ["Scope", (row) => chip(row.scope, row.scope === "admin" ? "on" : ""), "", (row) => row.scope],
      ["Requests/min", (row) => limit(row.requests_per_minute), "n"],
      ["Tokens/min", (row) => limit(row.tokens_per_minute), "n"],
      ["Made", (row) => date(row.created), "", (row) => row.created],
      ["Ends", (row) => date(row.expires)],
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
    expires_days: el("input", { type: "number", min: 0.001, step: "any" }),
  };
  const form = el("form", { class: "card", onsubmit: async (event) => {
    event.preventDefault();
    const body = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.type === "number" ? (input.value ? Number(input.value) : null) : input.value]));
    try {
      const key = await post("/v1/admin/keys", body);
      form.reset();
      show(made, el("p", {}, "The key of ", said(key.name), ". It is shown this once: keep it now."), el("code", { class: "secret", tabindex: "0" }, key.key));
    } catch (error) {
      show(made, el("p", { class: "bad" }, said(error.message)));
    }
    await draw();
  } }, el("h2", {}, "New key"), el("div", { class: "fields" }, field("Name", inputs.name), field("Scope", inputs.scope),
    field("Requests a minute", inputs.requests_per_minute), field("Tokens a minute", inputs.tokens_per_minute), field("Ends after days", inputs.expires_days)),
  el("button", { class: "main" }, "Make key"), made);
  show(page, el("h1", {}, "Keys"), own, form, list);
  await draw();
}
