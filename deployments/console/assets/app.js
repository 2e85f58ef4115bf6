// The frame around the pages: which one is shown, who is logged in, and what went wrong.

import { button, el, field, show } from "/console/dom.js";
import { get, post, remove } from "/console/api.js";

const PAGES = [
  ["ask", "Playground"],
  ["traces", "Traces"],
  ["pool", "Pool"],
  ["skills", "Skills"],
  ["batches", "Batches"],
  ["keys", "Keys"],
];
const ADMINS = new Set(["pool", "skills"]);
const main = document.getElementById("main");
let who = null;
let leave = null;

export function tell(text, kind = "") {
  const node = document.getElementById("told");
  show(node, el("p", { class: kind }, text));
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => node.replaceChildren(), 6000);
}

function frame(page) {
  const links = PAGES.filter(([name]) => who && (who.scope === "admin" || !ADMINS.has(name)));
  show(document.getElementById("nav"), links.map(([name, title]) =>
    el("a", { href: `#/${name}`, "aria-current": name === page ? "page" : null }, title)));
  document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  const out = who && who.id !== "anonymous" && button("Log out", async () => {
    await remove("/console/session");
    who = null;
    route();
  }, "quiet");
  show(document.getElementById("who"), who && el("span", {}, who.id === "anonymous" ? "this machine" : who.id), out);
}

function logIn(why) {
  frame("");
  const key = el("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true });
  const wrong = el("p", { class: "bad", role: "alert" });
  const form = el("form", { class: "card login", onsubmit: async (event) => {
    event.preventDefault();
    wrong.replaceChildren();
    try {
      await post("/console/session", { key: key.value });
      await route();
    } catch (error) {
      show(wrong, error.status === 401 ? "This key is not known here, or is not good any more." : error.message);
      key.focus();
    }
  } },
  el("h1", {}, "Log in"),
  el("p", {}, why ?? "This service asks for a key. One is made with ", !why && el("code", {}, "symmoe key create NAME"), !why && "."),
  field("Key", key), wrong, el("button", { class: "main" }, "Log in"));
  show(main, form);
  document.title = "Log in · symmoe";
  key.focus();
}

async function route() {
  const at = location.hash.replace(/^#\/?/, "") || "ask";
  if (at === "main") return main.focus();
  const [path, query] = at.split("?");
  const [name, ...rest] = path.split("/").map(decodeURIComponent);
  leave?.();
  leave = null;
  try {
    who = await get("/v1/key");
  } catch (error) {
    if (error.status === 401) return logIn();
    show(main, el("div", { class: "empty" }, el("p", { class: "strong" }, "The service does not answer"), el("p", {}, error.message)));
    return;
  }
  const page = PAGES.find(([each]) => each === name) ?? PAGES[0];
  frame(page[0]);
  document.title = `${page[1]} · symmoe`;
  const inside = el("div", { class: "page" });
  show(main, inside);
  try {
    const { open } = await import(`/console/${page[0]}.js`);
    leave = await open(inside, rest, new URLSearchParams(query), who);
  } catch (error) {
    if (error.status === 401) return logIn("The session is over. Log in again.");
    const title = error.status === 403 ? "Not with this key" : "This page could not be shown";
    show(inside, el("div", { class: "empty", role: "alert" }, el("p", { class: "strong" }, title), el("p", {}, error.message)));
  }
}

addEventListener("hashchange", route);
route();
