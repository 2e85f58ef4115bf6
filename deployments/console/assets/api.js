// Asking the service's own paths, as anybody may.

const MARK = { "x-symmoe-console": "1" };

export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the service answered with status ${status}`);
    this.status = status;
    this.code = error?.code ?? "";
  }
}

async function sent(method, path, body, more = {}) {
  const headers = { ...MARK, ...more.headers };
  if (body !== undefined && !(body instanceof FormData)) {
    headers["content-type"] = "application/json";
    body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, { method, headers, body, credentials: "same-origin", signal: more.signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "the service does not answer", code: "unreachable" });
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Refused(response.status, told?.error);
}

export const get = async (path, more) => (await sent("GET", path, undefined, more)).json();
export const post = async (path, body = {}, more) => (await sent("POST", path, body, more)).json();
export const remove = async (path) => (await sent("DELETE", path)).json();
export const text = async (path) => (await sent("GET", path)).text();
export const blob = async (path) => (await sent("GET", path)).blob();

/** The events of a streamed answer, as they come. */
export async function* stream(path, body, more) {
  const response = await sent("POST", path, body, more);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Refused(200, event.error);
      yield event;
    }
  }
}
