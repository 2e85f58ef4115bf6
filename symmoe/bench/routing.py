"""`symmoe bench routing` and `recruiting`: time and memory of routing, and accuracy against calls."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.bench.machine import peak_mib
from symmoe.build import Assembly, build_recruiter
from symmoe.build_embedder import sentence_embedder
from symmoe.pipeline import UNWATCHED, Watch, answer
from symmoe.policy import Policy
from symmoe.profiles.marking import as_query, earned, paired
from symmoe.protocols import Embedder, Recruiter
from symmoe.questions.families import FAMILIES
from symmoe.questions.suites import mixed_suite
from symmoe.routing.embedding import load_sentence_model
from symmoe.routing.facets import facets_of
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.routing.tagging import EmbeddingTagger
from symmoe.routing.tallies import Tallies
from symmoe.types import Message, Outcome, Query, Question, Sampling, Skill, Skills, Trace

DIMENSIONS = 384
K = 3
_WORDS = (
    "algebra geometry calculus logic history law medicine biology chemistry physics music grammar spelling poetry "
    "trade finance audit tax contract ethics religion art film sport travel weather farming energy networks databases"
).split()


def measure(embedders: dict[str, Embedder], seed: int, quick: bool = False) -> dict[str, Any]:
    """The report of `symmoe bench routing`. Seconds are wall time; the batch runs on one core.

    `quick` uses small sizes, for tests.
    """
    questions, skills, experts = (200, 50, 4) if quick else (10_000, 1_000, 16)
    large = (500, 20) if quick else (50_000, 1_000)
    batch = _batch(questions, skills, experts, seed)  # before torch, whose objects slow the garbage collector
    single = {name: _single(embedder, skills, experts, seed, quick) for name, embedder in embedders.items()}
    authors = _authors_way(embedders["transformer"], skills, seed, 1 if quick else 5)
    return {
        "batch": batch,
        "single": single,
        "authors_way": authors,
        "times_the_authors_way": {
            name: round(1000 * authors["seconds_per_question"] / spent["p50_ms"], 1) for name, spent in single.items()
        },
        "memory": _memory(*large),
    }


def measure_naming(directory: Path, taxonomy: Sequence[Skill], texts: Sequence[str], rounds: int = 3) -> dict[str, Any]:
    """Time naming skills with the embedding model in `directory`, and with `SentenceTransformer.encode` in 32 bits.

    Both alternate for `rounds`, and the fastest round of each counts. `same_first` is the share of questions that get
    the same first skill from both.
    """
    ours, theirs = sentence_embedder(lambda: directory), load_sentence_model(directory)
    ours.embed(texts[:64])
    spent: dict[str, list[float]] = {"ours": [], "encode": []}
    vectors: dict[str, NDArray[np.float32]] = {}
    for _ in range(rounds):
        for name, embed in (("encode", partial(theirs.encode, normalize_embeddings=True)), ("ours", ours.embed)):
            began = time.perf_counter()
            vectors[name] = np.asarray(embed(list(texts)), dtype=np.float32)
            spent[name].append(time.perf_counter() - began)
    tagger, facets = EmbeddingTagger(ours, taxonomy, most=1, least=0.0), [facets_of(text) for text in texts]
    first = [[topics[:1] and topics[0].skill for topics in tagger.topics(rows, facets)] for rows in vectors.values()]
    fastest = {name: min(seconds) for name, seconds in spent.items()}
    return {
        "questions": len(texts),
        "characters": round(sum(map(len, texts)) / len(texts)),
        "per_second": {name: round(len(texts) / seconds, 1) for name, seconds in fastest.items()},
        "times": round(fastest["encode"] / fastest["ours"], 2),
        "same_first": round(float(np.mean([a == b for a, b in zip(*first, strict=True)])), 4),
        "least_cosine": round(float((vectors["ours"] * vectors["encode"]).sum(axis=1).min()), 6),
    }


def synthetic_tallies(skills: int, experts: int, seed: int) -> Tallies:
    """Random records: 40 answers of every expert on every skill."""
    rng = np.random.default_rng(seed)
    right = rng.random((skills, experts), dtype=np.float32)
    right *= 40
    return Tallies(
        tuple(skill_names(skills)),
        tuple(f"expert-{n}" for n in range(experts)),
        right,
        np.broadcast_to(np.float32(40), right.shape),
        np.full(skills, -1, dtype=np.int32),
        np.ones(skills, dtype=np.bool_),
        np.full(experts, 0.5, dtype=np.float32),
        np.full(experts, 100, dtype=np.float32),
    )


def skill_names(count: int) -> list[str]:
    """`count` distinct, readable names."""
    return [f"{_WORDS[n % len(_WORDS)]} {_WORDS[n // len(_WORDS) % len(_WORDS)]} {n}" for n in range(count)]


class RandomVectors:
    """An embedder of random unit rows, for measurements in which only sizes matter."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def tokens(self, texts: Sequence[str]) -> int:
        """0: no text is read."""
        return 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Random unit rows, `[n, 384]`, different in each call."""
        drawn = self._rng.standard_normal((len(texts), DIMENSIONS), dtype=np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn


def fill_memory(skills: int, experts: int) -> None:
    """Tag and recruit 1,000 questions over records of this size, and print the peak memory of this process as JSON."""
    tallies = synthetic_tallies(skills, experts, 0)
    tagger = EmbeddingTagger(RandomVectors(0), _named(tallies.skills), 5, 0.0)
    recruiter = PosteriorRecruiter(tallies)
    queries = _queries(1_000, 0)
    vectors = RandomVectors(1).embed([query.text for query in queries])
    recruited = recruiter.recruit(queries, _tagged(tagger, queries, vectors), K, 0)
    sys.stdout.write(json.dumps({"recruited": len(recruited), "peak_mib": peak_mib()}) + "\n")


def _batch(questions: int, skills: int, experts: int, seed: int) -> dict[str, Any]:
    from threadpoolctl import threadpool_limits

    tallies = synthetic_tallies(skills, experts, seed)
    tagger = EmbeddingTagger(RandomVectors(seed), _named(tallies.skills), 5, 0.0)
    recruiter = PosteriorRecruiter(tallies)
    queries = _queries(questions, seed)
    vectors = RandomVectors(seed + 1).embed([query.text for query in queries])
    tagger.topics(
        vectors[:1], [facets_of("worüber man nicht sprechen kann, darüber muss man schweigen")]
    )  # loads models
    with threadpool_limits(1):
        began = time.perf_counter()
        skills_of = _tagged(tagger, queries, vectors)
        tagged = time.perf_counter()
        recruiter.recruit(queries, skills_of, K, seed)
        done = time.perf_counter()
    return {
        "questions": questions,
        "skills": skills,
        "experts": experts,
        "cores": 1,
        "tag_seconds": round(tagged - began, 3),
        "recruit_seconds": round(done - tagged, 3),
        "seconds": round(done - began, 3),
    }


def _single(embedder: Embedder, skills: int, experts: int, seed: int, quick: bool) -> dict[str, Any]:
    """Milliseconds from the text of a question to its experts, one question at a time."""
    tallies = synthetic_tallies(skills, experts, seed)
    tagger = EmbeddingTagger(embedder, _named(tallies.skills), 5, 0.0)
    recruiter = PosteriorRecruiter(tallies)
    queries = _asked(20 if quick else 300, seed)

    def route(query: Query) -> None:
        recruiter.recruit([query], tagger.tag([query]), K, seed)

    for query in queries[:10]:
        route(query)
    spent = sorted(1000 * _seconds(partial(route, query)) for query in queries)
    return {
        "questions": len(queries),
        "p50_ms": round(spent[len(spent) // 2], 3),
        "p95_ms": round(spent[int(len(spent) * 0.95)], 3),
    }


def _authors_way(embedder: Embedder, skills: int, seed: int, questions: int) -> dict[str, Any]:
    """Seconds for a question as in the authors' public code, which embeds the keywords of the profiles each time."""
    keywords = skill_names(skills)
    texts = [query.text for query in _asked(questions, seed)]

    def route(text: str) -> int:
        return int((embedder.embed([text]) @ embedder.embed(keywords).T).argmax())

    spent = [_seconds(partial(route, text)) for text in texts]
    return {"questions": questions, "seconds_per_question": round(float(np.median(spent)), 4)}


def _memory(skills: int, experts: int) -> dict[str, Any]:
    code = f"from symmoe.bench.routing import fill_memory; fill_memory({skills}, {experts})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {"skills": skills, "experts": experts, **json.loads(done.stdout)}


def _tagged(tagger: EmbeddingTagger, queries: Sequence[Query], vectors: NDArray[np.float32]) -> list[Skills]:
    facets = [facets_of(query.text) for query in queries]
    topics = tagger.topics(vectors, facets)
    return [Skills(query.id, *found) for query, found in zip(queries, zip(topics, facets, strict=True), strict=True)]


def _named(names: Sequence[str]) -> list[Skill]:
    return [Skill(name, name) for name in names]


def _asked(count: int, seed: int) -> list[Query]:
    """`count` distinct questions of the profile split."""
    suite = mixed_suite(-(-count // len(FAMILIES)), "profile", seed)[:count]
    return [Query(question.id, (Message("user", question.question),), Sampling(16)) for question in suite]


def _queries(count: int, seed: int) -> list[Query]:
    """`count` distinct queries, made from up to 200 questions by adding numbers."""
    asked = _asked(min(count, 200), seed)
    texts = [f"{asked[n % len(asked)].text} ({n})" for n in range(count)]
    return [Query(str(n), (Message("user", text),), Sampling(16)) for n, text in enumerate(texts)]


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def contest(
    assembly: Assembly, questions: Sequence[Question], k: int, seed: int, watch: Watch = UNWATCHED
) -> dict[str, Any]:
    """Accuracy, calls and tokens of each recruiter, and what `symmoe` saves against always asking k experts.

    Calls are assignments: a repeated draw of the published rules counts, though it is generated once.
    """
    queries = [as_query(question, assembly.pool.sampling) for question in questions]
    parts = assembly.parts()
    rows: dict[str, dict[str, Any]] = {}
    right: dict[str, list[float]] = {}
    for name, recruiter in ways(assembly).items():
        policy = Policy(k, aggregate="auto" if name == "symmoe" else "always")  # the others ask all they draw
        outcome = answer(replace(parts, recruiter=partial(_always, recruiter)), queries, policy, seed, watch=watch)
        right[name] = earned(questions, outcome.results)
        rows[name] = {"accuracy": round(float(np.mean(right[name])), 4)} | _spent(outcome)
    for name, row in rows.items():
        row["over_fixed_k"] = paired(right[name], right["fixed_k"], seed)
        row["calls_saved"] = round(1 - row["calls"] / rows["fixed_k"]["calls"], 4)
    return {"pool": assembly.pool.name, "questions": len(questions), "k": k, "seed": seed, "ways": rows}


def _always(recruiter: Recruiter, policy: Policy) -> Recruiter:
    return recruiter


def ways(assembly: Assembly) -> Mapping[str, Recruiter]:
    """The recruiters to compare: symmoe's, symmoe's with always k experts, and both published rules."""
    pool, profiles = assembly.pool, assembly.profiles()

    def with_routing(**changes: object) -> Recruiter:
        routing = pool.routing.model_copy(update=changes)
        return build_recruiter(pool.model_copy(update={"routing": routing}), profiles, assembly.embedder)

    return {
        "symmoe": with_routing(recruiter="symmoe"),
        "fixed_k": with_routing(recruiter="symmoe", top_p=1.0, budget=None, balance=0.0),
        "published": with_routing(recruiter="published"),
        "published_code": with_routing(recruiter="published-code"),
    }


def _spent(outcome: Outcome) -> dict[str, Any]:
    traces = [result for result in outcome.results if isinstance(result, Trace)]
    candidates = [candidate for trace in traces for candidate in trace.candidates]
    own = [candidate for candidate in candidates if not candidate.shared]
    return {
        "calls": len(candidates),
        "generations": len(own),
        "completion_tokens": sum(candidate.completion_tokens for candidate in own),
        "loads": len(outcome.loads),
    }
