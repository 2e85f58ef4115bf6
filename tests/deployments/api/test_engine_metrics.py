"""What engines counted, on the page of metrics: vLLM's names, and one series for each expert on each engine."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from symmoe.deployments.api.admin import shown
from symmoe.deployments.api.metrics import Metrics
from symmoe.deployments.events import EngineState

from symmoe.engines.stats import StatsRecorder
from symmoe.types import BETWEEN_TOKENS_BOUNDS, FIRST_TOKEN_BOUNDS, EngineStats, Histogram


class Told:
    """What vLLM tells of a step, as far as it is read."""

    def __init__(self, **said: Any) -> None:
        self.__dict__.update(said)


def counted(running: int = 0, usage: float = 0.0, *first: float, tokens: int = 0) -> EngineStats:
    """What a recorder makes of one step."""
    recorder = StatsRecorder()
    cache = Told(queries=30, hits=10)
    scheduler = Told(num_running_reqs=running, num_waiting_reqs=1, kv_cache_usage=usage, prefix_cache_stats=cache)
    step = Told(
        num_prompt_tokens=40,
        num_generation_tokens=tokens,
        num_preempted_reqs=2,
        time_to_first_tokens_iter=first,
        inter_token_latencies_iter=(0.03,),
    )
    recorder.record(scheduler_stats=scheduler, iteration_stats=step, mm_cache_stats=None)
    return recorder.taken()


def page(*engines: EngineState) -> dict[tuple[str, ...], float]:
    """Every sample of the engines by its name, expert, engine and, in a histogram, bound."""
    metrics = Metrics()
    metrics.looked({}, {}, engines)
    families = text_string_to_metric_families(metrics.text().decode())
    samples = [sample for family in families for sample in family.samples if sample.name.startswith("vllm:")]
    labels = ("model_name", "engine", "le")
    return {(each.name, *(each.labels[n] for n in labels if n in each.labels)): each.value for each in samples}


def test_counts_are_told_by_expert_and_engine() -> None:
    busy = EngineState("adder", None, 3, {}, name="a", stats={"adder": counted(3, 0.25, 0.02, 0.3, tokens=7)})
    other = EngineState("adder", None, 0, {}, name="b", stats={"adder": counted(tokens=5), "poet": counted(tokens=4)})
    found = page(busy, other)
    assert found["vllm:generation_tokens_total", "adder", "a"] == 7
    assert found["vllm:generation_tokens_total", "adder", "b"] == 5
    assert found["vllm:generation_tokens_total", "poet", "b"] == 4
    assert found["vllm:prompt_tokens_total", "adder", "a"] == 40
    assert found["vllm:num_preemptions_total", "adder", "a"] == 2
    assert found["vllm:prefix_cache_hits_total", "adder", "a"] == 10
    assert found["vllm:kv_cache_usage_perc", "adder", "a"] == 0.25
    assert found["vllm:num_requests_running", "adder", "a"] == 3
    assert found["vllm:num_requests_waiting", "adder", "a"] == 1


def test_a_bucket_holds_all_that_took_no_longer() -> None:
    found = page(EngineState("adder", None, 1, {}, name="a", stats={"adder": counted(1, 0.1, 0.02, 0.3, 9999.0)}))
    name, bounds = "vllm:time_to_first_token_seconds_bucket", ("0.01", "0.02", "0.5", "2560.0", "+Inf")
    buckets = {bound: found[name, "adder", "a", bound] for bound in bounds}
    assert buckets == {"0.01": 0, "0.02": 1, "0.5": 2, "2560.0": 2, "+Inf": 3}
    assert found["vllm:time_to_first_token_seconds_count", "adder", "a"] == 3


def test_an_engine_at_which_nothing_runs_holds_nothing_and_its_counts_stay() -> None:
    """The last step that told of it was one before the end."""
    found = page(EngineState("adder", None, 0, {}, name="a", stats={"adder": counted(2, 0.5, tokens=7)}))
    assert found["vllm:kv_cache_usage_perc", "adder", "a"] == 0
    assert found["vllm:num_requests_running", "adder", "a"] == 0
    assert found["vllm:generation_tokens_total", "adder", "a"] == 7


def test_times_add_up_and_what_is_now_is_the_later_one() -> None:
    whole = counted(3, 0.5, 0.02, tokens=7).then(counted(1, 0.25, 0.02, tokens=5))
    assert (whole.running, whole.kv_cache_usage, whole.generation_tokens) == (1, 0.25, 12)
    assert whole.first_token == Histogram((*(2 * (bound == 0.02) for bound in FIRST_TOKEN_BOUNDS), 0), 0.04)
    assert sum(whole.between_tokens.counts) == 2
    assert len(whole.between_tokens.counts) == len(BETWEEN_TOKENS_BOUNDS) + 1


def test_what_was_taken_is_not_counted_again() -> None:
    recorder = StatsRecorder()
    recorder.record(None, None)
    assert recorder.taken() == recorder.taken()
    assert recorder.taken().prompt_tokens == 0


def test_the_admin_path_tells_what_an_engine_is_at_without_its_counts() -> None:
    told = shown(EngineState("adder", None, 3, {"adder": 2}, name="a", stats={"adder": counted(3)}))
    assert "stats" not in told
    assert (told["name"], told["running"], told["waiting"]) == ("a", 3, {"adder": 2})
