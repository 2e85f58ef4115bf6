"""Go templates, as far as the chart uses them; `tests/k8s/test_values.py` compares whole charts with Helm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import ConfigError
from symmoe.manifests.templates import Templates

DATA: dict[str, Any] = {"a": {"b": 2}, "none": "", "names": ["x", "y"], "map": {"k": "v", "j": "w"}, "yes": True}


def rendered(text: str, data: Any = None) -> str:
    return Templates({"f": text}).render("f", data or DATA)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("{{ .a.b }}", "2"),
        ("x {{- .a.b -}} y", "x2y"),
        ("a {{- /* a remark */}} b", "a b"),
        ("{{ if .none }}1{{ else if eq .a.b 2 }}2{{ else }}3{{ end }}", "2"),
        ("{{ if .none }}1{{ end }}", ""),
        ("{{ with .a }}{{ .b }}{{ $.yes }}{{ end }}", "2true"),
        ("{{ range .names }}<{{ . }}>{{ end }}", "<x><y>"),
        ("{{ range $k, $v := .map }}{{ $k }}={{ $v }};{{ end }}", "j=w;k=v;"),
        ("{{ range .none }}1{{ else }}0{{ end }}", "0"),
        ("{{ $n := add .a.b 1 }}{{ $n }}", "3"),
        ('{{ .none | default "d" | quote }}', '"d"'),
        ('{{ printf "%s-%d" .map.k .a.b }}', "v-2"),
        ('{{ define "t" }}[{{ . }}]{{ end }}{{ include "t" .a.b | nindent 2 }}', "\n  [2]"),
        ('{{ ternary "a" "b" (and .yes (gt .a.b 1)) }}', "a"),
        ('{{ "x" | sha256sum | trunc 4 }}', "2d71"),
        ("{{ toJson .map }}", '{"j":"w","k":"v"}'),
    ],
)
def test_what_the_chart_uses_is_understood(text: str, made: str) -> None:
    assert rendered(text) == made


@pytest.mark.parametrize(
    "text",
    ["{{ .missing }}", "{{ if .a }}", "{{ end }}", "{{ .names }}", "{{ unknown 1 }}", "{{ .a.b ~ 1 }}", "{{ 1 2 }}"],
)
def test_what_is_not_is_an_error_that_names_the_file(text: str) -> None:
    with pytest.raises(ConfigError, match="f: "):
        rendered(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_json_is_what_it_was_made_of_and_safe_in_html(value: Any) -> None:
    made = rendered("{{ toJson .value }}", {"value": value})
    assert json.loads(made) == value
    assert not set("<>&") & set(made)
