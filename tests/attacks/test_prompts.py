"""Prompts far beyond the window, and chat templates that never end, cost their sender and hold up nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
from symmoe.deployments.events import Asked, TurnedAwayError
from symmoe.deployments.prompts import Prompts

from symmoe.engines import chat
from symmoe.engines.chat import ChatTokenizer
from symmoe.engines.grammars import Verdict
from symmoe.errors import CapacityError, CheckpointError
from symmoe.limits import PROMPT_CHARACTERS_PER_TOKEN, PROMPT_SLACK, ROUTED_CHARACTERS
from symmoe.routing.tagging import routed_part
from symmoe.types import Message, Prompt, Query, Refusal, Sampling
from tests.deployments.prompting import AnySchema

PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
WINDOW = 100


@dataclass
class Counting:
    """A tokenizer as transformers makes them: a token for each character, and a count of those that it was shown."""

    chat_template: str = PLAIN
    shown: list[int] = field(default_factory=list)

    def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        ((text,), _) = render_jinja_template([messages], chat_template=self.chat_template)
        return str(text)

    def __call__(self, text: str, add_special_tokens: bool) -> Counting.Encoded:
        self.shown.append(len(text))
        return Counting.Encoded([1] * len(text))

    @dataclass
    class Encoded:
        input_ids: list[int]


Make = Callable[[str], tuple[ChatTokenizer, Counting]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    def made(template: str = PLAIN) -> tuple[ChatTokenizer, Counting]:
        import transformers

        inner = Counting(template)
        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: inner)
        return ChatTokenizer("anywhere", WINDOW), inner

    return made


def query(text: str) -> Query:
    return Query("q", (Message("user", text),), Sampling(4))


def test_of_a_prompt_of_a_megabyte_only_the_beginning_is_tokenised(make: Make) -> None:
    tokenizer, inner = make(PLAIN)
    refusal = tokenizer.prompt(query("x" * (1 << 20)))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "context_length_exceeded"
    assert refusal.message.startswith(f"the prompt is more than {WINDOW} tokens long")
    assert sum(inner.shown) == refusal.tokens == WINDOW * PROMPT_CHARACTERS_PER_TOKEN


@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + PROMPT_SLACK, 799, 800, 801])
def test_a_prompt_fits_exactly_where_it_leaves_room_for_an_answer(length: int, make: Make) -> None:
    tokenizer, _ = make(PLAIN)
    prompt = tokenizer.prompt(query("x" * length))
    assert isinstance(prompt, Prompt) == (length < WINDOW)


def test_a_chat_template_that_does_not_end_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "TEMPLATE_SECONDS", 0.2)
    tokenizer, _ = make(ENDLESS)
    refusal = tokenizer.prompt(query("hello"))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_messages"
    assert "took more than" in refusal.message


@pytest.mark.parametrize(
    "template", ["{{ messages.__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}"]
)
def test_a_chat_template_reaches_nothing_but_the_messages(template: str, make: Make) -> None:
    refusal = make(template)[0].prompt(query("hello"))
    assert isinstance(refusal, Refusal)
    assert "unsafe" in refusal.message


@dataclass
class Slow:
    """A tokenizer that takes its time over long prompts."""

    model: str = "slow"
    window: int = WINDOW
    go: threading.Event = field(default_factory=threading.Event)

    def prompt(self, query: Query) -> Prompt | Refusal:
        if len(query.text) > WINDOW:
            assert self.go.wait(60)
            return Refusal(query.id, "context_length_exceeded", "too long", 800)
        return Prompt("slow", (1,))


def asked(text: str, ident: str = "1") -> Asked:
    return Asked(ident, "adder", query(text), "me", 5.0)


def test_short_prompts_do_not_wait_for_long_ones_and_these_say_what_they_cost() -> None:
    async def both() -> None:
        slow = Slow()
        prompts = Prompts(lambda _: slow, AnySchema())
        long = [asyncio.create_task(prompts.ready(asked("x" * 100_000, str(n)))) for n in range(4)]
        await asyncio.sleep(0)
        for _ in range(20):
            assert (await prompts.ready(asked("short"))).prompt == Prompt("slow", (1,))
        assert not any(task.done() for task in long)
        slow.go.set()
        for task in long[1:]:
            task.cancel()
        with pytest.raises(TurnedAwayError) as raised:
            await long[0]
        assert (raised.value.why.status, raised.value.why.spent) == (400, 800)

    asyncio.run(both())


class Finds(AnySchema):
    """Finds what it is told to."""

    def __init__(self, found: Verdict | Exception) -> None:
        self._found = found

    def verdict(self, schema: str, model: str, key: str, form: str = "json") -> Future[Verdict]:
        if isinstance(self._found, Exception):
            raise self._found
        future: Future[Verdict] = Future()
        future.set_result(self._found)
        return future


@pytest.mark.parametrize(
    ("found", "status", "code"),
    [
        (Verdict("it takes too long"), 400, "invalid_schema"),
        (Verdict("there was no time", sure=False), 503, "overloaded"),
        (CapacityError("too many schemas wait"), 429, "overloaded"),
        (CheckpointError("no vocab_size"), 503, "expert_unavailable"),
    ],
)
def test_a_schema_with_a_fault_reaches_no_engine_and_says_why(
    found: Verdict | Exception, status: int, code: str
) -> None:
    one = Asked("1", "adder", Query("q", (Message("user", "x"),), Sampling(4, schema="{}")), "me", 5.0)
    with pytest.raises(TurnedAwayError) as raised:
        asyncio.run(Prompts(lambda _: Slow(), Finds(found)).ready(one))
    assert (raised.value.why.status, raised.value.why.code) == (status, code)


class Undecided(AnySchema):
    """Never comes to a verdict."""

    def __init__(self) -> None:
        self.futures: list[Future[Verdict]] = []

    def verdict(self, schema: str, model: str, key: str, form: str = "json") -> Future[Verdict]:
        self.futures.append(Future())
        return self.futures[-1]


def test_a_client_that_leaves_is_forgotten_by_whoever_compiles_its_schema() -> None:
    async def leaving() -> None:
        schemas = Undecided()
        one = Asked("1", "adder", Query("q", (Message("user", "x"),), Sampling(4, schema="{}")), "me", 5.0)
        task = asyncio.create_task(Prompts(lambda _: Slow(), schemas).ready(one))
        while not schemas.futures:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert schemas.futures[0].cancelled()

    asyncio.run(leaving())


def test_routing_reads_only_the_ends_of_an_enormous_question() -> None:
    assert routed_part("x" * ROUTED_CHARACTERS) == "x" * ROUTED_CHARACTERS
    assert len(routed_part("a" + "x" * (1 << 20) + "b")) == ROUTED_CHARACTERS + 1
    assert routed_part("a" + "x" * (1 << 20) + "b")[::ROUTED_CHARACTERS] == "ab"
