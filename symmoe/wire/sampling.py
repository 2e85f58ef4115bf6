"""How an answer is generated, under OpenAI's and vLLM's names: the same in every API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, get_args
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from symmoe.config import SamplingConfig
from symmoe.engines.grammars import depth_of
from symmoe.errors import RequestError
from symmoe.limits import (
    BIASED_TOKENS,
    IGNORED_NAMES,
    SCHEMA_CHARACTERS,
    SCHEMA_DEPTH,
    STOP_TOKENS,
    STOPS,
    TEMPLATE_CHARACTERS,
)
from symmoe.types import Form, Sampling

SEEDS = 1 << 31
"""Seeds count modulo this."""
_TOKEN_IDS = 1 << 31
_NAME = 100
"""Characters of a field's name that are told back."""
_RESERVED = frozenset(
    """conversation documents chat_template add_generation_prompt continue_final_message tokenize padding truncation
    max_length return_tensors return_dict return_assistant_tokens_mask tokenizer_kwargs tools messages""".split()
)
"""Arguments by which a chat template's caller says what is rendered and how: these are not a client's."""


def _writable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds a character that cannot be written") from error
    return text


Text = Annotated[str, AfterValidator(_writable)]


class Strict(BaseModel):
    """A model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Lenient(BaseModel):
    """A model that accepts fields without effect: only their names are kept, to be reported."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    @property
    def ignored(self) -> tuple[str, ...]:
        """The names of fields without effect that ask for something: those of the whole, then those of its parts."""
        extra_names = (name for name, value in (self.model_extra or {}).items() if _asks(value))
        return tuple(dict.fromkeys((*extra_names, *_of_parts(self))))


def _of_parts(model: BaseModel) -> Iterator[str]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, Lenient):
                yield from (f"{name}.{each}" for each in part.ignored)


def _asks(value: Any) -> bool:
    """Whether a field's value asks for anything."""
    return bool(value) and value not in ("auto", "default", "none")


def refuse_ignored(names: tuple[str, ...]) -> None:
    """Raise `RequestError` for the first ignored field that is not known to be harmless."""
    for name in names:
        if name not in ("metadata", "service_tier"):
            raise _refused(name, f"unknown parameter: {name[:_NAME]}", "unknown_parameter")


def header_of_ignored(names: tuple[str, ...]) -> dict[str, str]:
    """The header that names ignored fields, if there are any."""
    if not names:
        return {}
    quoted = [quote(name[:_NAME], safe=".-_[]") for name in names[:IGNORED_NAMES]]
    more = [f"(+{len(names) - IGNORED_NAMES})"] if len(names) > IGNORED_NAMES else []
    return {"x-symmoe-ignored": ",".join([*quoted, *more])}


class StructuredOutputs(Strict):
    """What a text must follow, in vLLM's form: exactly one of these. `grammar` is EBNF in GBNF's dialect."""

    json_: dict[str, Any] | Text | None = Field(default=None, alias="json")
    regex: Text | None = None
    choice: list[Text] | None = Field(default=None, min_length=1, max_length=1024)
    grammar: Text | None = None
    json_object: bool | None = None


class SamplingFields(Lenient):
    """Fields that every API has. What experts cannot do is accepted only with the value that asks for nothing."""

    REFUSED: ClassVar[Mapping[str, str]] = {
        "functions": "tools",
        "function_call": "tool_choice",
        "audio": "",
        "web_search_options": "",
        "prompt_logprobs": "",
        "use_beam_search": "",
        "bad_words": "stop",
        "allowed_token_ids": "logit_bias",
    }
    """Fields without which an answer would be another one, and what to say instead of them."""
    _OF_OLD: ClassVar[Mapping[str, str]] = {
        "guided_json": "json",
        "guided_regex": "regex",
        "guided_choice": "choice",
        "guided_grammar": "grammar",
    }

    stream: bool | None = False
    n: int | None = Field(default=1, ge=1, le=128)
    stop: Text | list[Text] | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=1 << 30)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=1 << 20)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    logit_bias: dict[str, float] | None = Field(default=None, max_length=BIASED_TOKENS)
    min_tokens: int | None = Field(default=None, ge=0, le=1 << 30)
    ignore_eos: bool | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0, lt=_TOKEN_IDS)]] | None = Field(
        default=None, max_length=STOP_TOKENS
    )
    chat_template_kwargs: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | Text | None = None
    guided_regex: Text | None = None
    guided_choice: list[Text] | None = Field(default=None, min_length=1, max_length=1024)
    guided_grammar: Text | None = None
    response_format: dict[str, Any] | None = None
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None

    def sampling(self, defaults: SamplingConfig) -> Sampling:
        """How experts generate, with the pool's defaults for what the request leaves open. Raises `RequestError`."""
        schema, form = self._held()
        top_k = max(0, self.top_k or 0)
        return Sampling(
            max_tokens=self.most_tokens or defaults.max_tokens,
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            seed=None if self.seed is None else self.seed % SEEDS,
            stop=self._stops(),
            schema=schema,
            form=form,
            top_k=top_k,
            min_p=self.min_p or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            logit_bias=self._biases(),
            min_tokens=self.min_tokens or 0,
            ignore_eos=bool(self.ignore_eos),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            top_logprobs=self.wanted_logprobs,
            template=self._template(),
        )

    @property
    def most_tokens(self) -> int | None:
        """The limit on an answer's tokens, if any."""
        return self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """How many likeliest tokens to return with each token; None for no log-probabilities at all."""
        return None

    def check(self, most_choices: int) -> None:
        """Raise `RequestError`, naming the field, for what no expert here can do."""
        extra = self.model_extra or {}
        for name, alternative in self.REFUSED.items():
            if _asks(extra.get(name)):
                hint = f"; say {alternative}" if alternative else ""
                raise _refused(name, f"{name} is not supported by this service{hint}", "unsupported_parameter")
        if (self.n or 1) > most_choices:
            raise _refused("n", f"n must be at most {most_choices} here")
        if len(self._stops()) > STOPS:
            raise _refused("stop", f"stop: at most {STOPS} sequences")

    def _stops(self) -> tuple[str, ...]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)

    def _biases(self) -> tuple[tuple[int, float], ...]:
        """Each token's bias, in the order of their ids."""
        biases = {}
        for token, bias in (self.logit_bias or {}).items():
            if not (token.isascii() and token.isdigit() and len(token) < 10) or not -100 <= bias <= 100:
                raise _refused("logit_bias", "logit_bias: maps token ids to numbers from -100 to 100")
            biases[int(token)] = bias
        return tuple(sorted(biases.items()))

    def _template(self) -> str:
        arguments = self.chat_template_kwargs
        if not arguments:
            return ""
        reserved = sorted(arguments.keys() & _RESERVED)
        if reserved:
            message = f"chat_template_kwargs: {reserved[0]} is not for a request to say"
            raise _refused("chat_template_kwargs", message)
        text = json.dumps(arguments, sort_keys=True)
        if len(text) > TEMPLATE_CHARACTERS:
            raise _refused("chat_template_kwargs", f"chat_template_kwargs: at most {TEMPLATE_CHARACTERS} characters")
        return text

    def _held(self) -> tuple[str | None, Form]:
        """What the text must follow, and how that is written."""
        constraints = [
            *self._by_format(),
            *self._by_vllm(self.structured_outputs, "structured_outputs"),
            *(
                each
                for old, new in self._OF_OLD.items()
                if getattr(self, old) is not None
                for each in self._by_vllm(StructuredOutputs(**{new: getattr(self, old)}), old)
            ),
        ]
        if not constraints:
            return None, "json"
        (name, schema, form), *others = constraints
        if others:
            raise _refused(others[0][0], f"{others[0][0]}: {name} says already what an answer must follow")
        self.check_ends(name)
        return schema, form

    def check_ends(self, name: str) -> None:
        """Raise `RequestError` where the request says when an answer ends that must follow what the field says."""
        odd = [field for field in ("ignore_eos", "min_tokens", "stop_token_ids") if getattr(self, field)]
        if odd:
            raise _refused(odd[0], f"{odd[0]}: an answer that must follow something ends where that ends ({name})")

    def _by_format(self) -> Iterator[tuple[str, str, Form]]:
        schema = schema_of(self.response_format)
        if schema is not None:
            yield "response_format", schema, "json"

    def _by_vllm(self, asked: StructuredOutputs | None, name: str) -> Iterator[tuple[str, str, Form]]:
        if asked is None:
            return
        if asked.json_ is not None:
            yield name, checked_schema(_loaded(asked.json_, name), name), "json"
        if asked.json_object:
            yield name, checked_schema(_ANY_OBJECT, name), "json"
        if asked.regex is not None:
            yield name, _short(asked.regex, name), "regex"
        if asked.grammar is not None:
            yield name, _short(asked.grammar, name), "ebnf"
        if asked.choice is not None:
            literals = (json.dumps(each, ensure_ascii=False) for each in asked.choice)
            yield name, _short(f"root ::= {' | '.join(literals)}", name), "ebnf"


_ANY_OBJECT = {"type": "object"}
_SHAPES = 'text, json_object, or json_schema with {"json_schema": {"name": ..., "schema": {...}}}'
assert {"json", "regex", "ebnf"} == set(get_args(Form))  # noqa: S101  (each has its field above)


def _refused(name: str, message: str, code: str = "invalid_value") -> RequestError:
    return RequestError(message, code=code, param=name[:_NAME])


def _loaded(schema: dict[str, Any] | str, name: str) -> Any:
    try:
        return json.loads(schema) if isinstance(schema, str) else schema
    except (ValueError, RecursionError) as error:
        raise _refused(name, f"{name}: the schema is not JSON") from error


def _short(text: str, name: str) -> str:
    if not 0 < len(text) <= SCHEMA_CHARACTERS:
        raise _refused(name, f"{name}: from 1 to {SCHEMA_CHARACTERS} characters, and there are {len(text)}")
    return text


def schema_of(asked: dict[str, Any] | None) -> str | None:
    """The schema, as JSON, that an answer must follow; None for plain text. Raises `RequestError`."""
    if asked is None or asked == {"type": "text"}:
        return None
    return checked_schema(_ANY_OBJECT if asked == {"type": "json_object"} else _given(asked), "response_format")


def checked_schema(schema: Any, name: str) -> str:
    """A JSON schema as canonical JSON; `name` is the field that holds it. Raises `RequestError`."""
    if not isinstance(schema, dict):
        shapes = f" is not one of {_SHAPES}" if name == "response_format" else ": the schema is no object"
        raise _refused(name, f"{name}{shapes}")
    if depth_of(schema) > SCHEMA_DEPTH:
        raise _refused(name, f"{name}: lists and objects of the schema lie more than {SCHEMA_DEPTH} deep")
    text = json.dumps(schema, sort_keys=True)
    if len(text) > SCHEMA_CHARACTERS:
        raise _refused(name, f"{name}: the schema is of {len(text)} characters, and {SCHEMA_CHARACTERS} is the most")
    return text


def _given(asked: dict[str, Any]) -> Any:
    if set(asked) != {"type", "json_schema"} or asked["type"] != "json_schema":
        return None
    definition = asked["json_schema"]
    return (
        definition.get("schema") if isinstance(definition, dict) and isinstance(definition.get("name"), str) else None
    )
