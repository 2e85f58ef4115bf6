// Files of many questions: uploaded, watched, cancelled, fetched.

import { button, bytes, chip, el, empty, field, number, said, show, table, when } from "/console/dom.js";
import { blob, get, post, remove, text } from "/console/api.js";
import { tell } from "/console/app.js";
import { timeline } from "/console/picture.js";

const OVER = new Set(["completed", "failed", "expired", "cancelled"]);
const KINDS = { completed: "good", failed: "bad", expired: "bad", cancelled: "warn", cancelling: "warn" };

async function fetched(ident, name) {
  const url = URL.createObjectURL(await blob(`/v1/files/${ident}/content`));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** What went wrong, line by line; of a file of many, the first ones. */
function errors(batch) {
  const told = (batch.errors?.data ?? []).map((each) => [each.line, "", each.message]);
  const list = el("ul", { class: "errors" });
  const fill = (rows) => show(list, rows.map(([line, name, message]) => el("li", {}, line && !message.startsWith(`line ${line} `) ? el("b", {}, `line ${line} `) : null, name && [said(name), ": "], said(message))));
  if (told.length) {
    fill(told);
    return el("details", {}, el("summary", {}, "Why"), list);
  }
  if (!batch.error_file_id) return null;
  const ontoggle = async (event) => {
    if (!event.target.open || list.childElementCount) return;
    const rows = (await text(`/v1/files/${batch.error_file_id}/content`)).split("\n", 101).filter(Boolean).slice(0, 100).map(JSON.parse);
    fill(rows.map((row) => [row.error?.line, row.custom_id, row.error?.message ?? row.response?.body?.error?.message ?? "failed"]));
  };
  return el("details", { ontoggle }, el("summary", {}, "Why"), list);
}

/** What ran for a batch, and when: of a long one the last lines. For who may see what experts do. */
function ran(batch) {
  const chart = el("div");
  const ontoggle = async (event) => {
    if (!event.target.open) return;
    try {
      const found = await get(`/v1/admin/timeline?seconds=86400&batch=${batch.id}`);
      const times = found.data.flatMap((each) => [each.at, each.at + each.seconds]);
      show(chart, timeline(times.length ? { ...found, from: Math.min(...times), to: Math.max(...times) } : found));
    } catch (error) {
      show(chart, el("p", { class: "quiet" }, said(error.message)));
    }
  };
  return el("details", { ontoggle }, el("summary", {}, "What ran"), chart);
}

function progress(batch) {
  const { total, completed, failed } = batch.request_counts;
  const part = total ? (completed + failed) / total : 0;
  return el("div", { class: "progress" }, el("span", { class: "track", role: "progressbar", "aria-valuenow": Math.round(100 * part), "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `Progress of ${batch.id}` },
    el("span", { class: "fill", css: { width: `${100 * part}%` } })),
  el("small", {}, `${number(completed)} of ${number(total)} answered${failed ? `, ${number(failed)} failed` : ""}`));
}

export async function open(page) {
  const [batches, files] = [el("div", { class: "framed" }), el("div", { class: "framed" })];
  const input = el("input", { type: "file", accept: ".jsonl", required: true });
  const state = el("p", { role: "status", class: "quiet" });

  async function change(work, told) {
    try {
      await work();
      if (told) tell(told);
    } catch (error) {
      tell(error.message, "bad");
    }
    await draw();
  }

  async function draw() {
    const [made, kept] = await Promise.all([get("/v1/batches?limit=50"), get("/v1/files?limit=200")]);
    const names = Object.fromEntries(kept.data.map((each) => [each.id, each.filename]));
    show(batches, made.data.length ? table("Batches", [
      ["Batch", (row) => [said(names[row.input_file_id] ?? row.input_file_id), el("small", {}, " ", row.id.slice(0, 14))]],
      ["State", (row) => [chip(row.status, KINDS[row.status] ?? "on"), errors(row)]],
      ["Progress", (row) => [progress(row), ran(row)]],
      ["Made", (row) => when(row.created_at)],
      ["", (row) => el("div", { class: "actions" },
        row.output_file_id && button("Answers", () => change(() => fetched(row.output_file_id, "answers.jsonl")), "quiet"),
        row.error_file_id && button("Errors", () => change(() => fetched(row.error_file_id, "errors.jsonl")), "quiet"),
        !OVER.has(row.status) && button("Cancel", () => change(() => post(`/v1/batches/${row.id}/cancel`), "The batch ends; what was answered is kept"), "quiet danger"))],
    ], made.data) : empty("No batch yet", "Upload a file of questions above: one request a line, as OpenAI's batches have it."));
    show(files, kept.data.length ? table("Files", [
      ["File", (row) => said(row.filename), "", (row) => row.filename],
      ["Purpose", (row) => chip(row.purpose)],
      ["Size", (row) => bytes(row.bytes), "n", (row) => row.bytes],
      ["Made", (row) => when(row.created_at), "", (row) => row.created_at],
      ["", (row) => el("div", { class: "actions" },
        button("Download", () => change(() => fetched(row.id, row.filename)), "quiet"),
        button("Delete", () => change(() => remove(`/v1/files/${row.id}`), "The file is deleted"), "quiet danger"))],
    ], kept.data) : empty("No files", "Files that batches are made of, and those that they give, stand here."));
    return made.data.some((each) => !OVER.has(each.status));
  }

  const form = el("form", { class: "card", onsubmit: async (event) => {
    event.preventDefault();
    const body = new FormData();
    body.append("purpose", "batch");
    body.append("file", input.files[0]);
    show(state, "Uploading …");
    await change(async () => {
      try {
        const file = await post("/v1/files", body);
        await post("/v1/batches", { input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
        form.reset();
      } finally {
        show(state);
      }
    }, "The batch is made");
  } }, el("h2", {}, "New batch"), field("File", input, 'One line each: {"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {…}}'),
  el("button", { class: "main" }, "Upload and start"), state);
  show(page, el("h1", {}, "Batches"), form, batches, el("h2", {}, "Files"), files);
  await draw();
  const timer = setInterval(() => {
    if (!document.hidden && !page.querySelector("table button:focus, details[open]")) draw().catch(() => {});
  }, 2000);
  return () => clearInterval(timer);
}
