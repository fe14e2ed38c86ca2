"""Values and templates of workflows: whatever a value contains, it is inserted once and fits everywhere."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from fsm_runner.workflow.templates import (
    Reference,
    TemplateError,
    could_be_option,
    expand,
    expand_text,
    parts_of,
    text_of,
)
from fsm_runner.workflow.values import DEPTH_LIMIT, LIST_LIMIT, TEXT_LIMIT_BYTES, TOO_DEEP, bounded, bounded_text

TEXTS = st.one_of(
    st.text(st.characters(), max_size=20),
    st.sampled_from(["${a}", "$${a}", "${a", "}", "$", "-rf", "\0", "\ud83d", "${a.b}'\"`", "\x1b[31m", "${item}"]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)


def size_of(value: Any) -> int:
    """Return the deepest level of a value, and check every text and list on the way."""
    if isinstance(value, str):
        assert len(value.encode()) <= TEXT_LIMIT_BYTES
        assert "\0" not in value
        return 0
    if isinstance(value, dict):
        return 1 + max((max(size_of(key), size_of(part)) for key, part in value.items()), default=0)
    if isinstance(value, list):
        assert len(value) <= LIST_LIMIT
        return 1 + max(map(size_of, value), default=0)
    # The expression language has integers of 64 bits.
    assert not isinstance(value, int) or -(2**63) <= value < 2**63
    return 0


@given(VALUES)
@example({"big": [2**70, -(2**70), 10**400]})
def test_a_bounded_value_is_json_for_every_reader(value: Any) -> None:
    found = bounded(value)
    assert size_of(found) <= DEPTH_LIMIT
    assert json.loads(json.dumps(found, allow_nan=False).encode()) == found
    assert bounded(found) == found


@given(st.text(max_size=50), st.integers(0, 3 * TEXT_LIMIT_BYTES), st.sampled_from("aé€😀\0\ud83d"))
@example("", TEXT_LIMIT_BYTES, "a")
@example("", TEXT_LIMIT_BYTES + 1, "a")
def test_a_long_text_keeps_its_beginning_and_its_end(edge: str, length: int, filler: str) -> None:
    text = edge + filler * length + edge
    found = bounded_text(text)
    assert len(found.encode()) <= TEXT_LIMIT_BYTES
    short = bounded_text(edge)
    assert found.startswith(short)
    assert found.endswith(short)
    readable = text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if len(readable.encode()) <= TEXT_LIMIT_BYTES:
        assert found == readable
    else:
        assert " bytes left out …\n" in found


def test_lists_and_levels_have_a_limit() -> None:
    assert bounded(list(range(LIST_LIMIT + 1))) == list(range(LIST_LIMIT))
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    found, levels = bounded(deep), 0
    while isinstance(found, list):
        found, levels = found[0], levels + 1
    assert (found, levels) == (TOO_DEEP, DEPTH_LIMIT)


@given(VALUES)
def test_a_reference_alone_keeps_the_value_and_a_value_is_inserted_only_once(value: Any) -> None:
    value = bounded(value)
    names = {"a": value, "item": "second", "b": {"c": value}}
    assert expand("${a}", names) is value
    assert expand({"${a}": ["${b.c}"]}, names) == {"${a}": [value]}
    assert expand("<${a}|${b.c}>", names) == f"<{text_of(value)}|{text_of(value)}>"
    assert expand_text("${a}", names) == text_of(value)
    if not isinstance(value, str):
        assert json.loads(text_of(value)) == value


@given(st.lists(st.one_of(TEXTS, st.sampled_from(["${a}", "${b.c}", "$${", "$"])), max_size=6).map("".join))
def test_a_template_is_its_literals_and_its_references(template: str) -> None:
    """Written back, the parts are an equal template."""
    try:
        parts = parts_of(template)
    except TemplateError as error:
        assert '"${' in str(error)
        return
    assert "" not in parts
    written = "".join(f"${{{part}}}" if isinstance(part, Reference) else part.replace("${", "$${") for part in parts)
    assert parts_of(written) == parts


@given(TEXTS, st.sampled_from(["${a}", "${a}x", "${a}${a}", "--title=${a}", "x${a}", "literal", "-v"]))
def test_a_value_never_becomes_an_option(value: str, template: str) -> None:
    argument = expand_text(template, {"a": value})
    assert argument == template.replace("${a}", value)
    is_literal = not template.startswith("$")
    assert could_be_option(template, argument) == (argument.startswith("-") and not is_literal)
