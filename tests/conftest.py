"""What several test folders share: a state directory of a test's own, and pool files that need no model."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.stores import own_state
from tests.taxonomy import SKILLS, TAXONOMY

settings.register_profile("thorough", deadline=None, derandomize=True, database=None)
settings.register_profile("repeatable", settings.get_profile("thorough"), max_examples=25)
settings.load_profile("repeatable")
os.environ["SYMMOE_POOL"] = "tiny"  # no test fetches the starter pool's model unless it says so
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub client is first imported
if "PYTEST_XDIST_WORKER" in os.environ:  # two teams of threads on the same cores wait for each other at every step
    os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
TLS = {name: os.environ.pop(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ}
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)  # no test speaks TLS: reading certificates is 30 ms a client

ON_RAY = {
    *(
        "test_batch",
        "test_executor",
        "test_first_expert",
        "test_processes",
        "test_reward_on_ray",
        "test_reward_shipped",
    ),
    *("test_data", "test_scaling", "test_serve", "test_serve_config"),
}
"""The files of `deployments` whose tests use its Ray."""
LONGEST_FIRST = (
    *("ray", "attacks", "loading", "planning", "bench", "engine", "routing", "k8s", "starter", "scoring", "training"),
    *("deployments", "batch", "cli"),
)


class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out groups of tests to processes, so that those that share a costly fixture or import stay together."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    return ByGroup(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What imports leave behind is no garbage: it is not looked through, neither now nor beside the tests."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where tests run in several processes, long groups go first, single files last: none is alone at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _rank(_group(item.nodeid.partition("::")[0])))  # keeps the order within a group


def _group(path: str) -> str:
    """One for all tests that use the Ray of `deployments`, one a file there, as most of its fixtures are one a file,
    and one each for the other folders, where what is imported takes longer than most tests.
    """
    _, folder, *deeper = path.removesuffix(".py").split("/")
    if folder == "deployments" and deeper[-1] in ON_RAY:
        return "ray"
    return path if folder in ("batch", "cli", "deployments") else folder


def _rank(group: str) -> tuple[int, str]:
    folder = group.removeprefix("tests/").partition("/")[0]
    return (LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST), group)


@pytest.fixture(autouse=True, scope="session")
def nothing_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests without a state directory of their own share one: none finds the user's, or a store in `REDIS_URL`."""
    with own_state(tmp_path_factory.mktemp("shared"), cache=False):
        yield


_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # in a tenth of the time
_TAXONOMY_TEXT = yaml.safe_dump(TAXONOMY)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state and a cache directory of the test's own, no `REDIS_URL`; a store started in it is stopped at the end."""
    with own_state(tmp_path) as directory:
        yield directory


def echo_pool(
    tmp_path: Path,
    experts: Sequence[str] = ("adder", "speaker", "sorter"),
    able: Sequence[str] = (),
    more: Mapping[str, Mapping[str, object]] | None = None,
    **sections: object,
) -> Path:
    """Write a pool of echo experts with its taxonomy and profiles into `tmp_path`, and give the pool file's path.

    All experts share the model `org/base`; each has the adapter `./NAME`, so that its answers begin with `NAME:`.
    The n-th expert is good at the n-th skill and bad at the others; those that are `able` take tools, and what the pool
    file says `more` of one is said by its name. `sections`
    replace keys of the pool file; those that are mappings are laid over what stands there.
    """
    profiles = {
        name: {
            "overall": [9, 1],
            "skills": {
                skill: [9, 0] if number == place % len(SKILLS) else [0, 3] for number, skill in enumerate(SKILLS)
            },
        }
        for place, name in enumerate(experts)
    }
    pool: dict[str, object] = {
        "name": "echoes",
        "engine": {"kind": "echo", "max_model_len": 64},
        "sampling": {"max_tokens": 16, "temperature": 0.0},
        "routing": {"taxonomy": "./taxonomy.yaml", "profiles": "./profiles.json", "k": 3},
        "experts": [
            {
                "name": name,
                "model": "org/base",
                "adapter": f"./{name}",
                **({"tools": "json"} if name in able else {}),
                **(more or {}).get(name, {}),
            }
            for name in experts
        ],
    }
    for key, value in sections.items():
        below = pool.get(key)
        pool[key] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
    tmp_path.mkdir(parents=True, exist_ok=True)
    (tmp_path / "taxonomy.yaml").write_text(_TAXONOMY_TEXT, encoding="utf-8")
    document = {"format": 2, "about": {}, "parents": dict.fromkeys(SKILLS, ""), "experts": profiles}
    (tmp_path / "profiles.json").write_text(json.dumps(document), encoding="utf-8")
    path = tmp_path / "pool.yaml"
    path.write_text(yaml.dump(pool, Dumper=_DUMPER, sort_keys=False), encoding="utf-8")
    return path
