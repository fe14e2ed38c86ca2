"""No expression takes longer than a millisecond, whatever the values hold, and none raises another exception."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from fsm_runner.workflow.expressions import ExpressionError, Guard, compile_guard
from fsm_runner.workflow.value_types import ANY, Kind, ValueType

LIMIT_S = 0.001
LONG = 1 << 16
FIELDS = {
    "ok": ValueType(Kind.BOOLEAN),
    "number": ValueType(Kind.NUMBER),
    "integer": ValueType(Kind.INTEGER),
    "texts": ValueType(Kind.LIST, element=ValueType(Kind.TEXT)),
    "any": ANY,
    "maybe": ValueType(Kind.TEXT, is_optional=True),
    **{f"text{number}": ValueType(Kind.TEXT) for number in range(6)},
}
NAMES = {"v": ValueType(Kind.OBJECT, FIELDS), "w": ValueType(Kind.OBJECT)}


def values(filler: str, tail: str) -> dict[str, Any]:
    """Return values as large as they can be, which differ as late as they can."""
    texts = {f"text{number}": filler * (LONG - 1) + tail[number % len(tail)] for number in range(6)}
    elements = [filler * (LONG - 4) + f"{number:04}" for number in range(1_000)]
    deep = {"list": [{"inner": elements}] * 1_000}
    return {
        "v": {"ok": True, "number": 1.5, "integer": 3, "texts": elements, "any": deep, **texts},
        "w": {"deep": deep},
    }


HEAVY = [values("a", "bcdefg"), values("漢", "bcdefg"), values("😀", "b")]

texts = st.sampled_from(["v.text0", "v.text1", "v.text2", "''", "'a'", "'aaaab'", "'" + "a" * 400 + "b'"])
names = st.sampled_from(
    [f"v.{name}" for name in FIELDS] + ["w.deep", "w.deep.list[999].inner[3]", "v.any.list", "v.none"]
)
literals = st.sampled_from(
    ["0", "1.5", "'a'", "'aaab'", "''", "true", "null", "'" + "a" * 1_500 + "b'", "[1, 2]", "['a', 'b']"]
)
atoms = (
    names
    | literals
    | st.builds("{}({})".format, st.sampled_from(["size", "has", "int", "double"]), names)
    | st.builds("{}.{}({})".format, names, st.sampled_from(["contains", "startsWith", "endsWith", "map"]), literals)
    | st.builds("({} in {})".format, literals, names)
)
comparisons = st.builds("{} {} {}".format, atoms, st.sampled_from(["==", "!=", "<", ">=", "+", "in"]), atoms)
expressions = st.recursive(
    comparisons | atoms,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||", "==", "+", "-", "*", "/", "%"]), inner)
        | st.builds("!({})".format, inner)
        | st.builds("({} ? {} : {})".format, inner, inner, inner)
    ),
    max_leaves=40,
)

integers = st.recursive(
    st.sampled_from(["v.integer", "0", "2", "-7", "size(v.texts)", "size(v.text0)", "size(v.any)", "int(v.number)"]),
    lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("+-*/%"), inner),
    max_leaves=6,
)
searches = st.builds(
    "{}.{}({})".format, st.sampled_from(["v.text0", "v.any"]), st.sampled_from(["contains", "endsWith"]), texts
)
sound_expressions = st.recursive(
    st.sampled_from(
        ["v.ok", "true", "has(v.maybe)", "has(w.deep.list)", "v.number < 2.0", "v.any == 1", "w.deep != 'a'"]
    )
    | st.builds("{} {} {}".format, integers, st.sampled_from(["==", "<", ">="]), integers)
    | st.builds("{} {} {}".format, texts, st.sampled_from(["==", "!="]), texts)
    | st.builds("{} in [{}, {}]".format, texts, texts, texts)
    | st.builds(
        "({} in {})".format, st.sampled_from(["'a'", "'" + "a" * 400 + "'"]), st.sampled_from(["v.texts", "v.any.list"])
    )
    | searches,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||", "=="]), inner)
        | st.builds("!({})".format, inner)
        | st.builds("({} ? {} : {})".format, inner, inner, inner)
    ),
    max_leaves=12,
)


def accepted(text: str) -> Guard | None:
    try:
        return compile_guard(text, NAMES)
    except ExpressionError as error:
        assert 1 <= error.column <= len(text) + 1
        return None


def best_time_s(evaluate: Callable[[], object]) -> float:
    """Return the shortest time of several: the others include what else the machine does."""
    times: list[float] = []
    while len(times) < 30 and not (times and min(times) < LIMIT_S):
        start = time.perf_counter()
        with suppress(ExpressionError):
            evaluate()
        times.append(time.perf_counter() - start)
    return min(times)


@settings(max_examples=200)
@given(sound_expressions | expressions, st.sampled_from(HEAVY))
def test_an_accepted_expression_takes_less_than_a_millisecond(text: str, heavy: dict[str, Any]) -> None:
    guard = accepted(text)
    event("accepted" if guard else "refused")
    if guard is not None:
        assert best_time_s(lambda: guard.holds(heavy)) < LIMIT_S


WORST = {
    "all that is allowed": " || ".join(
        [
            *(f"v.text{number} == v.text{number + 1}" for number in range(5)),
            "v.text0.contains('" + "a" * 40 + "b')",
            "v.text1.contains('b" + "a" * 40 + "')",
            "'" + "a" * 40 + "' in v.texts",
        ]
    ),
    "long needles": " || ".join(f"v.text{number}.contains('" + "a" * 560 + "b')" for number in range(3)),
    "lists": " || ".join(f"{number} in v.any.list" for number in range(3)),
    "many variables": "||".join(f"w.a{number:03}" for number in range(6)) + "||" + "||".join(["!v.ok"] * 250),
    "many names": "||".join(f"size(w.a{number:03})<0" for number in range(120)),
    "a long list": "v.integer in [" + ",".join(["9"] * 980) + "]",
    "many operators": " && ".join(["v.integer<9"] * 120),
}


@pytest.mark.parametrize("text", WORST.values(), ids=list(WORST))
@pytest.mark.parametrize("heavy", HEAVY, ids=["ascii", "two bytes", "four bytes"])
def test_the_worst_expressions_take_less_than_a_millisecond(text: str, heavy: dict[str, Any]) -> None:
    guard = compile_guard(text, NAMES)
    assert best_time_s(lambda: guard.holds(heavy)) < LIMIT_S


any_text = st.text(st.characters())
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(any_text | st.sampled_from(["data", "ok"]), inner, max_size=3)
    ),
)


@given(any_text | st.lists(atoms | any_text | st.sampled_from(list("()[]{}.!'\"?:&|")), max_size=12).map("".join))
def test_any_text_is_a_guard_or_the_one_error(text: str) -> None:
    accepted(text)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, any_json)),
    st.sampled_from(
        [
            "v.text0 == v.text1 || v.any == 'a' || v.any in ['x', v.text2]",
            "has(v.maybe) && v.maybe.contains('x') && v.maybe != v.text0",
            "v.number > 1.0 && v.integer + 1 > 0 && v.ok || 'a' in v.texts || size(v.any) == 1",
        ]
    ),
)
def test_any_values_give_an_answer_or_the_one_error(fields: dict[str, Any], text: str) -> None:
    guard = accepted(text)
    assert guard is not None
    with suppress(ExpressionError):
        assert guard.holds({"v": fields, "w": {}}) in (True, False)


@given(any_text, any_text)
def test_texts_compare_as_in_python(first: str, second: str) -> None:
    """Apart from characters that no value has."""
    first, second = (text.replace("\0", "\ufffd").encode(errors="replace").decode() for text in (first, second))
    guard = accepted("v.text0 == v.text1")
    assert guard is not None
    for filler in ("", "x" * 2_000, "é" * 3_000):
        texts = {"text0": filler + first, "text1": filler + second}
        assert guard.holds({"v": texts}) is (first == second)


small_values = st.fixed_dictionaries(
    {
        "ok": st.booleans(),
        "number": st.sampled_from([0.0, 1.5, -2.0]),
        "integer": st.integers(-3, 3),
        "texts": st.lists(st.sampled_from(["", "a", "b"]), max_size=3),
        "any": st.sampled_from([1, "a", "aaaab", True, None, ["a"]]),
        **{f"text{number}": st.sampled_from(["", "a", "aaaab"]) for number in range(3)},
    }
)


@given(sound_expressions.filter(lambda text: "has(" not in text and "w." not in text), small_values)
def test_a_guard_has_the_value_that_cel_alone_gives_it(text: str, fields: dict[str, Any]) -> None:
    from cel_expr_python import cel

    guard = accepted(text)
    assume(guard is not None)
    assert guard is not None
    kinds = {Kind.BOOLEAN: cel.Type.BOOL, Kind.NUMBER: cel.Type.DOUBLE, Kind.INTEGER: cel.Type.INT}
    kinds |= {Kind.TEXT: cel.Type.STRING, Kind.LIST: cel.Type.List(cel.Type.STRING)}
    variables = {f"v.{name}": kinds.get(FIELDS[name].kind, cel.Type.DYN) for name in fields}
    data = {f"v.{name}": value for name, value in fields.items()}
    try:
        expected = cel.NewEnv(variables=variables).compile(text).eval(data=data).value()
    except RuntimeError:
        assume(False)
    if isinstance(expected, bool):
        with suppress(ExpressionError):  # such as a list of unknown type that is compared
            assert guard.holds({"v": fields, "w": {}}) is expected
    else:
        with pytest.raises(ExpressionError):
            guard.holds({"v": fields, "w": {}})
