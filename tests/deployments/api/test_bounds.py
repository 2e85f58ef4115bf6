from __future__ import annotations

from pathlib import Path

from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import running


def test_an_expert_with_a_bound_is_asked_for_no_more(tmp_path: Path) -> None:
    with running(tmp_path, Settings(), experts=("adder", "sorter"), more={"adder": {"max_tokens": 3}}) as served:
        for expert, wanted in (("adder", 2), ("adder", 9), ("sorter", 9)):
            body = {"model": expert, "messages": [{"role": "user", "content": "sums"}], "max_tokens": wanted}
            assert served.post(json=body).is_success
        assert [query.sampling.max_tokens for query in served.engine.asked] == [2, 3, 9]
