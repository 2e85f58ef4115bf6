from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from symmoe.build import check_weights, fingerprint
from symmoe.build_scorer import build_scorer, check_reward, shipped_scorer
from symmoe.config import Pool, read_pool
from symmoe.errors import CheckpointError, PoolError
from symmoe.scoring.heads import WEIGHTS
from symmoe.scoring.weighing import Mixture, RecordScorer, RewardScorer, weigh
from symmoe.types import Recruitment
from tests.conftest import echo_pool
from tests.fakes import candidate, query
from tests.scoring.test_reward_models import small_scorer
from tests.scoring.tiny import write_armorm, write_classifier


def pool_with(folder: Path, **reward: object) -> Pool:
    return read_pool(str(echo_pool(folder / "pool", reward=reward)))


def test_without_a_reward_model_records_alone_decide(tmp_path: Path) -> None:
    assert isinstance(build_scorer(read_pool(str(echo_pool(tmp_path)))), RecordScorer)


@pytest.mark.parametrize("write", [write_armorm, write_classifier])
def test_a_checkpoint_named_in_the_pool_file_weighs_candidates(tmp_path: Path, write: object) -> None:
    write(tmp_path / "model")  # type: ignore[operator]
    scorer = build_scorer(pool_with(tmp_path, model=str(tmp_path / "model"), evidence=0.0, window=128))
    row = [candidate("a", "yes, it is"), candidate("b", "no"), candidate("b", "")]
    (verdicts,) = weigh(scorer, [query("Is it?")], [row], [Recruitment("q", (), {"a": 0.5, "b": 0.5})])
    assert sum(v.weight for v in verdicts) == pytest.approx(1.0)
    assert [v.weight > 0 for v in verdicts] == [True, True, False]
    assert all(v.reward is not None for v in verdicts)


def test_the_pool_files_numbers_win_over_the_fitted_ones(tmp_path: Path) -> None:
    small_scorer(tmp_path / "scorer")
    for given, expected in (({}, Mixture(0.5, 2.0)), ({"temperature": 3.0, "evidence": 0.0}, Mixture(3.0, 0.0))):
        scorer = build_scorer(pool_with(tmp_path, model=str(tmp_path / "scorer"), **given))
        assert isinstance(scorer, RewardScorer)
        assert scorer.mixture == expected


def test_a_model_on_a_hub_is_not_fetched_before_it_is_asked(tmp_path: Path) -> None:
    pool = pool_with(tmp_path, model="org/reward-model")
    scorer = build_scorer(pool)
    assert isinstance(scorer, RewardScorer)
    assert scorer.mixture == Mixture(1.0, 1.0)
    assert check_reward(pool) == ["reward: org/reward-model is on a hub and was not downloaded"]


def test_a_reward_model_that_is_nothing_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"reward\.model: 'one two' is neither a hub name"):
        pool_with(tmp_path, model="one two")


def test_checking_a_pool_reads_its_scorer(tmp_path: Path) -> None:
    pool = pool_with(tmp_path, model=str(small_scorer(tmp_path / "scorer")))
    assert check_weights(pool) == []
    weights = tmp_path / "scorer" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="the file was altered"):
        check_weights(pool)


def test_checking_a_pool_reads_the_headers_of_its_reward_model(tmp_path: Path) -> None:
    write_classifier(tmp_path / "model")
    pool = pool_with(tmp_path, model=str(tmp_path / "model"))
    assert check_weights(pool) == []
    file = next((tmp_path / "model").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        check_weights(pool)


def test_another_scorer_makes_another_run(tmp_path: Path) -> None:
    pool = pool_with(tmp_path, model=str(small_scorer(tmp_path / "scorer")))
    before = fingerprint(pool)
    assert fingerprint(pool) == before
    small_scorer(tmp_path / "scorer", mixture={"temperature": 0.6, "evidence": 2.0})
    assert fingerprint(pool) != before


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such model directory"):
        check_weights(pool_with(tmp_path, model=str(tmp_path / "nowhere")))


def test_the_shipped_scorer_is_small_whole_and_named_starter(tmp_path: Path) -> None:
    assert sum(file.stat().st_size for file in shipped_scorer().iterdir()) <= 2 << 20
    pool = pool_with(tmp_path, model="starter")
    assert check_reward(pool) == []
    copied = tmp_path / "copy"
    shutil.copytree(shipped_scorer(), copied)
    first, second = build_scorer(pool), build_scorer(pool_with(tmp_path, model=str(copied)))
    assert isinstance(first, RewardScorer)
    assert isinstance(second, RewardScorer)
    assert first.mixture == second.mixture
