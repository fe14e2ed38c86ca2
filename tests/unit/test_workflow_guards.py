import sys
from typing import Any

import pytest

from fsm_runner.workflow import expressions
from fsm_runner.workflow.expressions import ExpressionError, compile_guard
from fsm_runner.workflow.value_types import ANY, Kind, ValueType

TEXT, NUMBER, INTEGER, BOOLEAN = (ValueType(it) for it in (Kind.TEXT, Kind.NUMBER, Kind.INTEGER, Kind.BOOLEAN))
TASK = ValueType(Kind.OBJECT, {"title": TEXT})
DATA = ValueType(
    Kind.OBJECT,
    {
        "verdict": TEXT,
        "score": NUMBER,
        "note": ValueType(Kind.TEXT, is_optional=True),
        "labels": ValueType(Kind.LIST, element=TEXT),
        "counts": ValueType(Kind.LIST, element=INTEGER),
        "tasks": ValueType(Kind.LIST, element=TASK),
        "extra": ANY,
        "open": ValueType(Kind.OBJECT),
        "if": INTEGER,
        "a-b": INTEGER,
    },
)
NAMES = {
    "verify": ValueType(Kind.OBJECT, {"ok": BOOLEAN, "exit_code": INTEGER, "stdout": TEXT}),
    "review": ValueType(Kind.OBJECT, {"ok": BOOLEAN, "data": DATA}),
    "params": ValueType(Kind.OBJECT, {"task": TEXT}),
}
VALUES: dict[str, Any] = {
    "verify": {"ok": True, "exit_code": 0, "stdout": "one test FAILED"},
    "review": {
        "ok": True,
        "data": {
            "verdict": "accept",
            "score": 8,
            "labels": ["bug", "ui"],
            "counts": [1, 2],
            "tasks": [{"title": "parser"}],
            "extra": 3,
            "open": {"key": None},
            "if": 7,
            "a-b": 5.0,
        },
    },
    "params": {"task": "x" * 3_000},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("verify.exit_code == 0 && size(review.data.tasks) > 1", False),
        ("verify.exit_code == 0 && size(review.data.tasks) > 0", True),
        ("verify.ok ? review.ok : !review.ok", True),
        ("verify.stdout.contains('FAILED') && !verify.stdout.startsWith('FAILED')", True),
        ('verify.stdout.endsWith("FAILED")', True),
        ("size(verify.stdout) == 15 && size(review.data.open) == 1", True),
        ("review.data.verdict in ['accept', 'minor changes']", True),
        ("'ui' in review.data.labels && !('ux' in review.data.labels)", True),
        ("2 in review.data.counts", True),
        ("true in review.data.extra || 'key' in review.data.open", True),
        ("review.data.tasks[0].title == 'parser'", True),
        ("size(review.data.tasks) > 1 && review.data.tasks[1].title == 'parser'", False),
        ("has(review.data.note) && review.data.note == 'x'", False),
        ("has(review.data.open.key) && review.data.open.key == null", True),
        ("has(review.data.open.other.deeper)", False),
        ("review.data.score > 7.5 && int(review.data.score) % 2 == 0", True),
        ("double(verify.exit_code) < 0.5 && -verify.exit_code <= 1 - 1", True),
        ("review.data.extra == 3 && review.data.extra > 2 && review.data.extra != 'x'", True),
        ("review . data . verdict == 'accept' // the reviewer agrees", True),
        ("review.data['verdict'] == 'accept' && review.data['a-b'] == 5", True),
        ("review.data.if == 7", True),
        ("params.task == params.task && params.task != review.data.verdict", True),
        ("params.task == '" + "x" * 1_900 + "'", False),
        (" ||\n".join(["verify.exit_code == 9"] * 70) + " || verify.ok", True),
    ],
)
def test_guard_holds(text: str, expected: bool) -> None:
    assert compile_guard(text, NAMES).holds(VALUES) is expected


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("verify.exitcode == 0", 8, 'verify has no field "exitcode" (did you mean "exit_code"?)'),
        ("!verify.ok || veriffy.ok", 15, 'there is no value "veriffy" (did you mean "verify"?)'),
        ("review.data.tasks[0].titel == ''", 22, 'review.data.tasks[0] has no field "titel" (did you mean "title"?)'),
        ("verify.ok\n && review.data.verdit == 'x'", 27, 'no field "verdit" (did you mean "verdict"?)'),
        ("verify.exit_code", 1, "must be true or false, but is an integer: compare it"),
        ("review.data.extra", 1, "must be true or false, but is a value of unknown type"),
        ("verify.exit_code == 'é😀' && true", 18, "== cannot be applied to an integer and a text"),
        ("'é😀' == verify.exit_code", 6, "== cannot be applied to a text and an integer"),
        ("review.data.score > 7", 19, "write a number with a point, such as 3.0"),
        ("verify.stdout + 'a' == 'b'", 15, "+ cannot be applied to a text and a text"),
        ("verify.exit_code == null", 18, "this value is never null"),
        ("review.data.labels.exists(x, x == 'a')", 20, "exists() is a loop"),
        ("review.data.labels.map(x, x) == []", 20, "map() is a loop"),
        ("verify.stdout.matches('a+')", 15, "a guard has no matches()"),
        ("verify.stdout.contain('a')", 15, 'there is no function contain (did you mean "contains"?)'),
        ("verify.stdout.size() > 1", 15, "write size(verify.stdout)"),
        ("verify.stdout.contains(params.task)", 24, "contains() takes a text in quotes"),
        ("timestamp('x') == 1", 1, "there is no function timestamp"),
        ("review.data.labels == []", 1, "review.data.labels is a list: use size()"),
        ("review.data == 1", 1, "review.data is an object: name one of its fields, such as review.data.verdict"),
        ("review.data.note == 'x'", 1, "review.data.note is optional: test it before, as in has(review.data.note)"),
        ("has(review.data.score)", 5, "review.data.score is not optional"),
        ("!'ux' in review.data.labels", 2, "put parentheses around 'ux' in review.data.labels"),
        ("1 in review.data.labels", 1, "review.data.labels never contains 1: an element is a text"),
        ("verify.ok and true", 11, "write && instead of and"),
        ("verify.exit_code = 0", 18, "write == instead of ="),
        ("verify.ok & true", 11, "write && instead of &"),
        ("verify.ok &&", 13, "unexpected end"),
        ("(verify.ok", 11, "missing ')' at end"),
        ("verify.stdout == 'abc", 18, "this text has no end"),
        ("{'a': 1} == {}", 1, "a guard contains no objects"),
        ("google.protobuf.Struct{} == 1", 1, 'there is no value "google"'),
        ("(verify.ok).foo == 1", 12, '"." can only follow the name of a value'),
        (" ", 1, "is empty"),
        ("verify.ok && '\0' == ''", 15, r"contains '\x00'"),
        ("verify.ok && '\ud800' == ''", 15, r"contains '\ud800'"),
        ("verify.ok || " + "x" * 2_000, 2_001, "has 2,013 characters, more than 2,000"),
        ("(" * 40 + "verify.ok" + ")" * 40, 1, "is nested too deeply, in more than 32 levels"),
        (" || ".join(f"review.data.open.k{it} == 'a'" for it in range(7)), 181, "compares more than 6 texts"),
        (" || ".join(f"verify.stdout.contains('{it}')" for it in range(4)), 94, "searches more than 3 times"),
    ],
)
def test_what_is_no_guard_has_a_column_and_a_remedy(text: str, column: int, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_guard(text, NAMES)
    assert message in str(caught.value)
    assert caught.value.column == column


@pytest.mark.parametrize(
    ("text", "changed", "message"),
    [
        (
            "verify.exit_code == 0",
            {"verify": {"ok": False}},
            "verify.exit_code does not exist: verify has no such field",
        ),
        ("verify.exit_code == 0", {"verify": {"exit_code": "0"}}, "verify.exit_code must be an integer, and is not"),
        ("verify.exit_code == 0", {"verify": {"exit_code": True}}, "verify.exit_code must be an integer, and is not"),
        ("verify.exit_code == 0", {"verify": {"exit_code": 1 << 63}}, "verify.exit_code is too large"),
        ("verify.ok && params.task == ''", {"params": {"task": "x" * 70_000}}, "params.task has 70,000 characters"),
        ("'a' in params.task", {"params": {"task": ["b"] * 1_001}}, "params.task has 1,001 elements"),
        ("params.task > 1", {"params": {"task": "x" * 2_001}}, "declare its type in the schema"),
        ("params.task == 1", {"params": {"task": {}}}, "params.task must be a number, a text, true, false or null"),
        ("verify.ok && 1 / verify.exit_code == 1", {}, "divide by zero"),
        ("verify.exit_code + 9223372036854775807 > 0", {"verify": {"exit_code": 1}}, "integer overflow"),
    ],
)
def test_a_guard_that_cannot_be_evaluated_is_an_error(text: str, changed: dict[str, Any], message: str) -> None:
    names = NAMES if "params.task == ''" in text else NAMES | {"params": ValueType(Kind.OBJECT)}
    with pytest.raises(ExpressionError) as caught:
        compile_guard(text, names).holds(VALUES | changed)
    assert message in str(caught.value)


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for cached in (expressions._library, expressions._config):
        cached.cache_clear()
        monkeypatch.setitem(sys.modules, "cel_expr_python", None)
    with pytest.raises(ExpressionError, match=r"pip install 'fsm-runner\[workflows\]'"):
        compile_guard("verify.ok", NAMES)


def test_the_paths_of_a_guard_are_known() -> None:
    guard = compile_guard("verify.ok && has(review.data.note) && 'a' in review.data.labels", NAMES)
    assert [*guard.paths] == [
        (("verify", "ok"), 1),
        (("review", "data", "note"), 14),
        (("review", "data", "labels"), 39),
    ]
