// Experts while the service runs: what they are at, and what is to become of them.

import { button, bytes, chip, choice, el, field, number, said, seconds, show, table, when } from "/console/dom.js";
import { get, post, remove } from "/console/api.js";
import { tell } from "/console/app.js";
import { timeline } from "/console/picture.js";

const KINDS = { active: "good", draining: "warn", quarantined: "bad", removed: "" };
const PATH = "/v1/admin/experts";

export async function open(page) {
  const [tiles, engines, experts] = [el("div", { class: "tiles" }), el("div"), el("div", { class: "framed" })];

  const back = choice([["60", "last minute"], ["600", "last ten minutes"], ["3600", "last hour"]]);
  const ran = el("div");
  const chart = el("section", { class: "card" }, el("h2", {}, "What ran"), el("div", { class: "fields" }, field("Time", back)), ran);
  async function drawChart() {
    try {
      show(ran, timeline(await get(`/v1/admin/timeline?seconds=${back.value}`)));
    } catch (error) {
      show(ran, el("p", { class: "quiet" }, said(error.message)));
    }
  }
  back.addEventListener("change", drawChart);

  async function change(work, told) {
    try {
      await work();
      tell(told);
    } catch (error) {
      tell(error.message, "bad");
    }
    await draw();
  }
  const path = (name, action) => `${PATH}/${encodeURIComponent(name)}${action ? `/${action}` : ""}`;
  function actions(row) {
    const act = (label, action, told, kind = "quiet") => button(label, () => change(() => post(path(row.name, action), { why: "" }), `${row.name} ${told}`), kind);
    const active = row.state === "active";
    return el("div", { class: "actions" },
      active && act("Drain", "drain", "finishes what it has and takes nothing new"),
      active && act("Quarantine", "quarantine", "is asked nothing any more"),
      !active && act("Resume", "restore", "may be asked again"),
      row.state !== "removed" && button("Remove", () => {
        if (confirm(`Remove ${row.name} from the service?`)) change(() => remove(path(row.name)), `${row.name} is removed`);
      }, "quiet danger"));
  }

  async function draw() {
    const found = await get(PATH);
    const told = found.engines.reduce((sum, each) => sum + each.running, 0);
    const waiting = {};
    for (const engine of found.engines) for (const [name, count] of Object.entries(engine.waiting)) waiting[name] = (waiting[name] ?? 0) + count;
    const awake = new Set(found.engines.map((each) => each.expert));
    const loading = new Set(found.engines.map((each) => each.loading));
    const tile = (value, label) => el("div", { class: "tile" }, el("b", {}, value), el("small", {}, label));
    show(tiles, tile(`${found.data.filter((each) => each.state === "active").length} of ${found.data.length}`, "experts active"),
      tile(number(told), "running"), tile(number(Object.values(waiting).reduce((a, b) => a + b, 0)), "waiting"),
      tile(number(found.data.reduce((sum, each) => sum + (each.loads ?? 0), 0)), "switches"));
    show(engines, el("h2", {}, "Engines"), found.engines.length ? el("p", {}, found.engines.map((each, place) => [
      el("span", {}, `${place + 1}: `), each.expert ? chip(each.expert, "on") : chip("empty"), each.loading && chip(`loading ${each.loading}`, "warn"), each.asleep.map((model) => chip(`asleep: ${model}`)), ` ${each.running} running`, each.memory === null ? null : `, ${bytes(each.memory)}`, "  "]))
      : el("p", { class: "quiet" }, "No engine runs: the next question starts one."));
    show(experts, table("Experts", [
      ["Expert", (row) => said(row.name), "", (row) => row.name],
      ["State", (row) => [chip(row.state, KINDS[row.state]), row.why && el("small", {}, " ", said(row.why)), row.until && el("small", {}, " until ", when(row.until))], "", (row) => row.state],
      ["Engine", (row) => (awake.has(row.name) ? chip("in the engine", "on") : loading.has(row.name) ? chip("loading", "warn") : el("span", { class: "quiet" }, "–"))],
      ["Lanes", (row) => Object.keys(row.lanes ?? {}).map((each) => chip(each))],
      ["Open", (row) => number(row.open), "n", (row) => row.open],
      ["Waiting", (row) => number(waiting[row.name] ?? 0), "n", (row) => waiting[row.name] ?? 0],
      ["Answers", (row) => number(row.generations), "n", (row) => row.generations ?? 0],
      ["Switches", (row) => [number(row.loads), row.loads ? el("small", {}, seconds(row.loading_seconds / row.loads), " each") : null], "n", (row) => row.loads ?? 0],
      ["Errors", (row) => number(row.failed), "n", (row) => row.failed ?? 0],
      ["", actions],
    ], found.data));
  }

  const inputs = { name: el("input", { required: true }), model: el("input", { required: true }), adapter: el("input", {}), description: el("input", {}) };
  const adding = el("details", {}, el("summary", {}, "Add an expert"), el("form", { class: "fields", onsubmit: (event) => {
    event.preventDefault();
    const expert = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value.trim()]).filter(([, value]) => value));
    change(() => post(PATH, { expert }), `${expert.name} has joined; it is asked by name, as it has no record`);
  } }, field("Name", inputs.name), field("Model", inputs.model, "a folder, as the service sees it"), field("Adapter", inputs.adapter, "its folder, if it has one"),
  field("Description", inputs.description), el("button", {}, "Add")));
  show(page, el("h1", {}, "Pool"), tiles, el("section", { class: "card" }, engines), experts, chart, el("section", { class: "card" }, adding));
  await Promise.all([draw(), drawChart()]);
  const timer = setInterval(() => {
    if (!document.hidden && !page.querySelector("button:focus, select:focus")) {
      draw().catch(() => {});
      drawChart();
    }
  }, 3000);
  return () => clearInterval(timer);
}
