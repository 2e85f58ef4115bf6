"""Making a candidate harmless to show to another model: what could pass for anything but its words is broken up.

Nothing is joined by taking things out after this: markers are replaced by look-alikes that no tokenizer knows, so that
none can be assembled from the remains of others.
"""

from __future__ import annotations

import re

from symmoe.aggregation.cleaning import visible, without_reasoning

_ROLES = (
    "system|developer|user|assistant|human|ai|bot|model|tool|function|ipython|environment|instructions?|input|response|"
    "aggregator|judge|moderator|candidates?"
)
_ROLE = re.compile(
    rf"^(?P<before>[ \t>*#_\-~|\[(<‹]{{0,20}}+)(?P<role>{_ROLES})(?P<after>(?:[ \t]\d+)?[ \t*_\])>›]{{0,20}}?)"
    r"(?:[:：]|(?=[\])>]{0,3}[ \t]{0,20}$))",
    re.IGNORECASE | re.MULTILINE,
)
_ANGLED = re.compile(
    r"<(?P<name>/?(?:s|bos|eos|pad|unk|mask|cls|sep|think|thinking|thought|reasoning|reflection|tools?|tool_calls?|"
    r"tool_response|function_calls?|start_of_\w+|end_of_\w+|unused\d+|extra_id_\d+|reserved\w*|fim_\w+|im_\w+|"
    r"image(?:_soft_token)?|audio|video|system|user|assistant|human|instructions?|candidates?|answers?|prompt|"
    r"endoftext|eot_id|eom_id)\b[^<>\n]{0,80})>",
    re.IGNORECASE,
)
_SQUARE = re.compile(
    r"\[(?P<name>/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|IMG|PREFIX|MIDDLE|"
    r"SUFFIX|ARGS|CALL_ID|THINK|gMASK|sMASK|MASK|CLS|SEP|PAD|UNK|BOS|EOS))\]",
    re.IGNORECASE,
)
_SYS = re.compile(r"<<[ \t]{0,5}(/?[ \t]{0,5}SYS)[ \t]{0,5}>>", re.IGNORECASE)
_BARS = re.compile(r"[<＜〈](?=[ \t]{0,3}[|｜│┃∣])|(?<=[|｜│┃∣])[>＞〉]")
_FENCE = re.compile(
    r"(?<![<＜〈《⟪«])[<＜〈《⟪«]{2,}+(?=[^\n<>]{0,40}(?:candidate|answer|end|begin|start|data))"
    r"|(?<=[0-9a-f])[>＞〉》⟫»]{3,}(?=[ \t]{0,20}$)",
    re.IGNORECASE | re.MULTILINE,
)
_BLANK = re.compile(r"\n{4,}")
_OPEN, _CLOSE = "‹", "›"


def neutral(text: str) -> str:
    """A candidate's words without reasoning, invisible characters, role markers, template tokens and fences.

    Honest words stay as they are, but for a line that begins like a role marker (`System: …` becomes `‘System’ – …`).
    """
    said = without_reasoning(visible(text)).strip()
    said = _SYS.sub(rf"{_OPEN}{_OPEN}\1{_CLOSE}{_CLOSE}", said)
    said = _FENCE.sub(lambda m: (_OPEN if m[0][0] in "<＜〈《⟪«" else _CLOSE) * len(m[0]), said)
    said = _BARS.sub(lambda m: _OPEN if m[0] in "<＜〈" else _CLOSE, said)
    said = _ANGLED.sub(rf"{_OPEN}\g<name>{_CLOSE}", said)
    said = _SQUARE.sub(rf"({_OPEN}\g<name>{_CLOSE})", said)
    said = _ROLE.sub(_quoted_role, said)
    return _BLANK.sub("\n\n\n", said)


def _quoted_role(found: re.Match[str]) -> str:
    dash = " –" if found[0].endswith((":", "：")) else ""
    after = found["after"].rstrip("*_])>› \t")
    return f"{_without_markers(found['before'])}‘{found['role']}{after}’{dash}"


def _without_markers(before: str) -> str:
    return "".join(mark for mark in before if mark.isspace())
