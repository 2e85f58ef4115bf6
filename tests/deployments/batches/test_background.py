"""Lines of batches give way to online requests, end to end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import PATIENCE, Running, running
from tests.deployments.batches.conftest import ended, line, start, state_in


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Running]:
    """A service whose engine runs two at once, and at which twenty may wait."""
    with state_in(tmp_path):
        settings = Settings(most_waiting=20, batch_lease=1.0, batch_lines_open=128)
        with running(tmp_path, settings, engine={"max_num_seqs": 2}) as service:
            yield service


def held(expert: str, number: int) -> dict[str, object]:
    """A line that its expert holds until it is let."""
    body = {"model": expert, "messages": [{"role": "user", "content": f"hold {number}"}]}
    return line(number, body=body)


def asking(
    service: Running, experts: tuple[str, ...], text: str = "online"
) -> tuple[list[threading.Thread], list[int]]:
    """One online request to each of these experts, begun; and the statuses they get."""
    statuses: list[int] = []

    def ask(expert: str) -> None:
        body = {"model": expert, "messages": [{"role": "user", "content": text}]}
        statuses.append(service.post(json=body).status_code)

    threads = [threading.Thread(target=ask, args=(expert,)) for expert in experts]
    for each in threads:
        each.start()
    return threads, statuses


def test_online_requests_are_answered_before_lines_that_came_long_before_them_and_run_already(narrow: Running) -> None:
    batch = start(narrow.openai, [held("adder", n) for n in range(18)])
    narrow.until('symmoe_queue{expert="adder"}', 16)
    threads, statuses = asking(narrow, ("sorter", "adder", "adder"))
    for each in threads:  # while the lines that run are held: they give way, and begin anew later
        each.join(PATIENCE)
    assert statuses == [200] * 3
    narrow.engine.released.set()
    over = ended(narrow.openai, batch)
    assert [query.text for query in narrow.engine.asked].count("online") == 3
    assert over.request_counts is not None
    assert over.request_counts.completed == 18


def test_lines_in_a_full_queue_give_way_to_online_requests_and_are_asked_again(narrow: Running) -> None:
    first, others = asking(narrow, ("adder", "adder"), "hold me")
    narrow.until('symmoe_running{expert="adder"}', 2)
    batch = start(narrow.openai, [held("adder", n) for n in range(10)])
    narrow.until('symmoe_queue{expert="adder"}', 10)
    threads, statuses = asking(narrow, ("sorter",) * 18)
    narrow.until('symmoe_queue{expert="sorter"}', 18)
    assert narrow.metric('symmoe_queue{expert="adder"}') == 2
    narrow.engine.released.set()
    for each in (*threads, *first):
        each.join(PATIENCE)
    over = ended(narrow.openai, batch)
    assert statuses + others == [200] * 20
    assert over.request_counts is not None
    assert (over.request_counts.completed, over.request_counts.failed) == (10, 0)
    assert narrow.metric('symmoe_batch_lines_total{outcome="retried"}') >= 6
