"""Clients of a service under measurement: their load, sent from another process, and figures of its outcome."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from symmoe.bench.tied import tied
from symmoe.errors import EngineError

if TYPE_CHECKING:
    import httpx

    from symmoe.config import Pool

Kind = Literal["answer", "refused", "left", "broken"]
_PATH = "/v1/chat/completions"
_PREFIX = "x-symmoe-"
_ENVELOPE = {"message", "type", "param", "code"}
_PATIENCE = 900.0
QUANTILES = {"p50": 0.5, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. After `leave_after` seconds, if given, its client closes the connection."""

    model: str
    text: str
    max_tokens: int
    stream: bool = False
    leave_after: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Chains of requests: the requests of a chain are sent one after the other by one client.

    A closed load has `clients`, each of which takes the next chain once its own is done; with `seconds`, chains repeat
    for that time. An open load has `arrivals`: the n-th chain starts `arrivals[n]` seconds after the start, however
    many are still open. `key` is the API key to send; empty for none.
    """

    chains: tuple[tuple[Ask, ...], ...]
    clients: int = 1
    arrivals: tuple[float, ...] | None = None
    seconds: float | None = None
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of the request at `place` in chain number `chain`; times are in seconds since the start.

    kind     an `answer`; `refused` with a well-formed 429; `left` by its client; `broken` is anything else
    first    time of the first text; None if it was not streamed
    tokens   generated, as the service counts them
    why      what is wrong with a broken one
    headers  the service's own, without their prefix
    """

    chain: int
    place: int
    kind: Kind
    began: float
    ended: float
    first: float | None = None
    tokens: int = 0
    text: str = ""
    why: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def poisson(rate: float, count: int, seed: int) -> tuple[float, ...]:
    """Arrival times of a Poisson process of `rate` per second, the first after one interval."""
    random, now, times = Random(seed), 0.0, []
    for _ in range(count):
        now += random.expovariate(rate)
        times.append(now)
    return tuple(times)


def load_from_json(document: Mapping[str, Any]) -> Load:
    """The load that `asdict` and JSON made of one."""
    chains = tuple(tuple(Ask(**ask) for ask in chain) for chain in document["chains"])
    arrivals = document["arrivals"]
    arrivals = None if arrivals is None else tuple(arrivals)
    return Load(chains, document["clients"], arrivals, document["seconds"], document["key"])


def closed(asks: Sequence[Ask], clients: int, seconds: float | None = None) -> Load:
    """A closed load: `clients`, each of which sends its next request once it is answered; for `seconds`, if given."""
    return Load(tuple((ask,) for ask in asks), clients, None, seconds)


def opened(asks: Sequence[Ask], rate: float, seed: int) -> Load:
    """An open load: requests that arrive at random, `rate` per second, whether or not earlier ones are answered."""
    return Load(tuple((ask,) for ask in asks), len(asks), poisson(rate, len(asks), seed))


def texts(pool: Pool, count: int, seed: int) -> list[str]:
    """`count` questions, distinct as far as the question families have so many."""
    if not pool.engine.runs_models:
        return [f"sums {number} of {seed}" for number in range(count)]
    from symmoe.questions.families import FAMILIES
    from symmoe.questions.suites import mixed_suite

    per_family = -(-count // len(FAMILIES))
    asked = [question.question for question in mixed_suite(per_family, "test", seed)]
    return list(islice(cycle(asked), count))


class Answering:
    """The response to one request so far."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.first: float | None = None
        self.tokens = 0
        self.pieces: list[str] = []
        self.done = False

    def whole(self, body: bytes) -> None:
        """Take a response that is not streamed. Raises `KeyError`, `TypeError` or `ValueError` if it is malformed."""
        document = json.loads(body)
        self.pieces.append(str(document["choices"][0]["message"]["content"]))
        self.tokens = int(document["usage"]["completion_tokens"])
        self.done = True

    def line(self, line: str) -> None:
        """Take one line of a stream. Raises `ValueError`, `KeyError` or `TypeError` if it is malformed."""
        if not line.startswith("data: "):
            return
        if line == "data: [DONE]":
            self.done = True
            return
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise ValueError(f"error in the stream: {chunk['error'].get('code')}")
        for choice in chunk["choices"]:
            text = choice["delta"].get("content")
            if text:
                self.first = self._clock() if self.first is None else self.first
                self.pieces.append(text)
        if chunk.get("usage"):
            self.tokens = int(chunk["usage"]["completion_tokens"])


async def send(
    client: httpx.AsyncClient, ask: Ask, chain: int, place: int, clock: Callable[[], float], since: float | None = None
) -> Outcome:
    """Send one request and follow it to its end; raises nothing. Its time counts from `since`, by default from now."""
    import httpx

    answering, headers, began = Answering(clock), dict[str, str](), clock() if since is None else since
    try:
        async with asyncio.timeout(ask.leave_after), client.stream("POST", _PATH, json=_body(ask)) as response:
            headers = _service_headers(response.headers)
            if response.status_code == 200 and ask.stream:
                async for line in response.aiter_lines():
                    answering.line(line)
            else:
                body = await response.aread()
                if response.status_code != 200:
                    kind, why = refusal(response.status_code, response.headers, body)
                    return Outcome(chain, place, kind, began, clock(), why=why, headers=headers)
                answering.whole(body)
    except TimeoutError:
        return Outcome(chain, place, "left", began, clock(), answering.first, headers=headers)
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"[:200]
        return Outcome(chain, place, "broken", began, clock(), answering.first, why=why, headers=headers)
    text = "".join(answering.pieces)
    ended = clock()
    if not answering.done:
        return Outcome(
            chain, place, "broken", began, ended, answering.first, why="the stream has no end", headers=headers
        )
    return Outcome(chain, place, "answer", began, ended, answering.first, answering.tokens, text, headers=headers)


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> tuple[Kind, str]:
    """The kind of a response other than 200: refused by a well-formed 429, else broken; and its code or fault."""
    try:
        error = json.loads(body)["error"]
        missing = _ENVELOPE - error.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        return "broken", f"{status} without an error envelope"
    if status != 429:
        return "broken", f"{status} {error.get('code')}"
    if missing or not headers.get("retry-after", "").isdecimal():
        return "broken", "429 without a full envelope and Retry-After"
    return "refused", str(error["code"])


def _body(ask: Ask) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": ask.model,
        "messages": [{"role": "user", "content": ask.text}],
        "max_tokens": ask.max_tokens,
        "temperature": 0,
    }
    return {**body, "stream": True, "stream_options": {"include_usage": True}} if ask.stream else body


def _service_headers(headers: httpx.Headers) -> dict[str, str]:
    return {name.removeprefix(_PREFIX): value for name, value in headers.items() if name.startswith(_PREFIX)}


def crowd(url: str, load: Load) -> list[Outcome]:
    """Send a load to the service at `url` from another process. Returns the outcome of every request.

    Raises `EngineError` if that process fails.
    """
    request = json.dumps({"url": url, "load": asdict(load)})
    done = subprocess.run(tied(["-m", __name__]), input=request, capture_output=True, text=True)
    if done.returncode != 0:
        message = (done.stderr.strip() or "without a message").splitlines()[-1]
        raise EngineError(f"the clients failed: {message}")
    return [Outcome(**row) for row in json.loads(done.stdout)]


async def run(url: str, load: Load) -> list[Outcome]:
    """The same as `crowd`, in this process."""
    import httpx

    limits, began = httpx.Limits(max_connections=None), time.perf_counter()
    outcomes: list[Outcome] = []

    def clock() -> float:
        return time.perf_counter() - began

    authorization = {"authorization": f"Bearer {load.key}"} if load.key else {}
    async with httpx.AsyncClient(
        base_url=url, limits=limits, timeout=_PATIENCE, trust_env=False, headers=authorization
    ) as client:

        async def follow(number: int, since: float | None = None) -> None:
            for place, ask in enumerate(load.chains[number]):
                outcomes.append(await send(client, ask, number, place, clock, None if place else since))

        if load.arrivals is None:
            await _closed(load, follow, clock)
        else:
            await _open(load.arrivals, follow, clock)
    return outcomes


async def _closed(load: Load, follow: Callable[..., Any], clock: Callable[[], float]) -> None:
    waiting = _turns(load, clock)

    async def client() -> None:
        for number in waiting:
            await follow(number)

    await asyncio.gather(*(client() for _ in range(load.clients)))


def _turns(load: Load, clock: Callable[[], float]) -> Iterator[int]:
    """The numbers of the chains in order: once, or repeatedly for `load.seconds`."""
    if load.seconds is None:
        yield from range(len(load.chains))
        return
    number = 0
    while clock() < load.seconds:
        yield number % len(load.chains)
        number += 1


async def _open(arrivals: tuple[float, ...], follow: Callable[..., Any], clock: Callable[[], float]) -> None:
    async def arrive(number: int, at: float) -> None:
        await asyncio.sleep(max(0.0, at - clock()))
        await follow(number, at)  # counted from when it was due: a client that falls behind hides no latency

    await asyncio.gather(*(arrive(number, at) for number, at in enumerate(arrivals)))


def quantile(values: Sequence[float], q: float) -> float:
    """The `q`-quantile of values, 0..1, interpolated; `values` must not be empty."""
    ranked = sorted(values)
    place = q * (len(ranked) - 1)
    low = int(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (place - low) * (ranked[high] - ranked[low])


def milliseconds(seconds: Sequence[float]) -> dict[str, float] | None:
    """Median and 99th percentile in milliseconds; None for no values."""
    return {name: round(1000 * quantile(seconds, q), 2) for name, q in QUANTILES.items()} if seconds else None


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts by kind, answers and tokens per second, latency, and time to first token of streamed answers."""
    answers = [outcome for outcome in outcomes if outcome.kind == "answer"]
    seconds = max(o.ended for o in outcomes) - min(o.began for o in outcomes)
    return {
        "requests": len(outcomes),
        "kinds": dict(Counter(outcome.kind for outcome in outcomes)),
        "seconds": round(seconds, 3),
        "requests_per_second": round(len(answers) / seconds, 3),
        "tokens_per_second": round(sum(o.tokens for o in answers) / seconds, 1),
        "latency_ms": milliseconds([o.ended - o.began for o in answers]),
        "first_token_ms": milliseconds([o.first - o.began for o in answers if o.first is not None]),
        **_broken(outcomes),
    }


def longest_wait(outcomes: Sequence[Outcome]) -> float | None:
    """The longest time that a request waited for its expert, in seconds, by the service's headers; None without any."""
    waits = [float(outcome.headers["wait-ms"]) for outcome in outcomes if "wait-ms" in outcome.headers]
    return round(max(waits) / 1000, 3) if waits else None


def best(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of the fastest round, which is the least disturbed by other work."""
    return dict(max(rows, key=lambda row: float(row["requests_per_second"])))


def _broken(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The most frequent faults of broken requests, with counts; empty if there are none."""
    why = Counter(outcome.why for outcome in outcomes if outcome.kind == "broken")
    return {"broken": dict(why.most_common(5))} if why else {}


if __name__ == "__main__":
    order = json.load(sys.stdin)
    followed = asyncio.run(run(order["url"], load_from_json(order["load"])))
    json.dump([asdict(outcome) for outcome in followed], sys.stdout)
