"""Guards: expressions of the Common Expression Language over the values of a workflow (docs/workflows.md, "Guards").

`expression_reader` replaces each name by a variable; CEL checks the types and evaluates the rest, which consists of
operators, numbers and short texts. Whatever the values hold, a guard takes less than a millisecond: CEL's own limit of
nesting, and the numbers below, see to that.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from fsm_runner.util.text import excerpt, quoted
from fsm_runner.workflow.expression_reader import ExpressionError, Read, Use, read
from fsm_runner.workflow.expression_values import Missing, TextClasses, variable_value
from fsm_runner.workflow.value_types import Kind, NameTypes, Step, optional_part, path_text

if TYPE_CHECKING:
    from cel_expr_python import cel

__all__ = ["ExpressionError", "Guard", "NameTypes", "compile_guard"]

LIMIT_CHARS = 2_000
TEXTS_LIMIT = 6
"""How many different texts, and values of unknown type, a guard compares."""
SEARCHES_LIMIT = 3
"""How many searches a guard makes in texts and lists."""
NESTING_LIMIT = 32
"""CEL's own limit."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_CEL_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): ([^\n]*)")
_NO_OVERLOAD = re.compile(r"found no matching overload for '([^']*)' applied to '\((.*)\)'")
_NO_VALUE = re.compile(r'No value with name "(\w+)"')
_CEL_WORDS = {
    "bool": "true or false",
    "int": "an integer",
    "int64": "an integer",
    "double": "a number",
    "string": "a text",
    "null_type": "null",
    "dyn": "a value of unknown type",
}
_OPERATORS = {
    "_&&_": (),
    "_||_": (),
    "!_": (),
    "_?_:_": (),
    "_==_": (),
    "_!=_": (),
    "@in": ("in_list",),
    "_<_": ("less_int64", "less_double"),
    "_<=_": ("less_equals_int64", "less_equals_double"),
    "_>_": ("greater_int64", "greater_double"),
    "_>=_": ("greater_equals_int64", "greater_equals_double"),
    "_+_": ("add_int64", "add_double"),
    "_-_": ("subtract_int64", "subtract_double"),
    "_*_": ("multiply_int64", "multiply_double"),
    "_/_": ("divide_int64", "divide_double"),
    "_%_": ("modulo_int64",),
    "-_": ("negate_int64", "negate_double"),
    "int": ("double_to_int64", "int64_to_int64"),
    "double": ("int64_to_double", "double_to_double"),
}
"""The functions that CEL offers to a guard, each with its overloads; none: all of them."""
_INEXACT = ("+", "<", "<=", ">", ">=")
"""Operators that would see the difference between a long text and its substitute (`TextClasses`)."""


def compile_guard(text: str, names: NameTypes) -> "Guard":
    """Check the expression, and return a guard that can be evaluated.

    Raises `ExpressionError` with the column and a remedy.
    """
    if len(text) > LIMIT_CHARS:
        raise ExpressionError(LIMIT_CHARS + 1, f"has {len(text):,} characters, more than {LIMIT_CHARS:,}: shorten it")
    if not text.strip():
        raise ExpressionError(1, "is empty: write a condition, or leave `when` out")
    if found := _CONTROL.search(text):
        raise ExpressionError(found.start() + 1, f"contains {found[0]!a}: remove this character")
    reading = read(text, names, _literal)
    _check_uses(reading, names)
    variables = {name: _cel_type(use.kind) for name, use in reading.uses.items()}
    try:
        program = _environment(variables).compile(reading.text)
    except RuntimeError as error:
        raise _translated(str(error), reading) from None
    if (kind := program.return_type().name()) != "BOOL":
        word = _CEL_WORDS.get(kind.lower(), "a value of unknown type" if kind == "DYN" else "a list")
        raise ExpressionError(1, f"must be true or false, but is {word}: compare it, for example with ==")
    return Guard(text, reading, program)


class Guard:
    """A sound expression of the type boolean."""

    def __init__(self, text: str, reading: Read, program: "cel.Expression") -> None:
        self.text = text
        self._uses = reading.uses
        self._program = program
        self._is_exact = any(token.text in _INEXACT for token in reading.tokens)

    @property
    def paths(self) -> Iterator[tuple[tuple[Step, ...], int]]:
        """Each path that the guard reads, with its column."""
        return ((use.path, use.column) for use in self._uses.values())

    def holds(self, values: Mapping[str, object]) -> bool:
        """Evaluate the guard.

        `values`: by name, such as `{"review": {"ok": True, …}, "params": {…}, "run": {…}}`. Raises `ExpressionError` if
        a value that decides does not exist, or does not have the type that was declared.
        """
        data: dict[str, object] = {}
        missing: dict[str, Missing] = {}
        texts = TextClasses()
        for name, use in self._uses.items():
            try:
                data[name] = variable_value(use, values, texts, is_exact=self._is_exact)
            except Missing as reason:
                missing[name] = reason
        try:
            result = self._program.eval(data=data).value()
        except RuntimeError as error:
            result = str(error)
        if isinstance(result, bool):
            return result
        raise self._fault(str(result), missing)

    def _fault(self, message: str, missing: Mapping[str, Missing]) -> ExpressionError:
        found = _NO_VALUE.search(message)
        name = found[1] if found else next(iter(missing), "")
        if name in missing:
            return ExpressionError(self._uses[name].column, str(missing[name]))
        return ExpressionError(1, excerpt(_in_plain_words(message.partition(": ")[2] or message)))


def _check_uses(reading: Read, names: NameTypes) -> None:
    tested = [use.path for use in reading.uses.values() if use.operation == "has"]
    texts = searches = 0
    for use in reading.uses.values():
        texts += use.operation == "value" and use.kind in (Kind.TEXT, Kind.ANY)
        searches += use.operation in ("in", "contains")
        if texts > TEXTS_LIMIT:
            raise ExpressionError(
                use.column, f"compares more than {TEXTS_LIMIT} texts and values of unknown type: use several branches"
            )
        if searches > SEARCHES_LIMIT:
            raise ExpressionError(
                use.column, f"searches more than {SEARCHES_LIMIT} times in texts and lists: use several branches"
            )
        part = None if use.operation == "has" else optional_part(names, use.path)
        if part is not None and not any(path[: len(part)] == part for path in tested):
            path = path_text(part)
            raise ExpressionError(use.column, f"{path} is optional: test it before, as in has({path}) && …")


@cache
def _library() -> Any:
    try:
        from cel_expr_python import cel
    except ImportError as error:
        message = f"guards need another package, which is not installed ({error}): pip install 'fsm-runner[workflows]'"
        raise ExpressionError(1, message) from error
    return cel


@cache
def _config() -> Any:
    lines = ["stdlib:", "  disable_macros: true", "  include_functions:"]
    for name, overloads in _OPERATORS.items():
        lines.append(f'    - name: "{name}"')
        if overloads:
            lines.append(f"      overloads: [{', '.join(f'{{id: {it}}}' for it in overloads)}]")
    return _library().NewEnvConfigFromYaml("\n".join(lines) + "\n")


def _environment(variables: Mapping[str, Any]) -> Any:
    return _library().NewEnv(config=_config(), variables=variables)


def _cel_type(kind: Kind) -> Any:
    types = _library().Type
    return {
        Kind.BOOLEAN: types.BOOL,
        Kind.INTEGER: types.INT,
        Kind.NUMBER: types.DOUBLE,
        Kind.TEXT: types.STRING,
        Kind.NULL: types.NULL,
    }.get(kind, types.DYN)


def _literal(text: str, column: int) -> Any:
    try:
        return _environment({}).compile(text).eval().value()
    except RuntimeError as error:
        found = _CEL_ERROR.search(str(error))
        raise ExpressionError(column, _in_plain_words(found[3] if found else str(error))) from None


def _translated(message: str, reading: Read) -> ExpressionError:
    if "recursion" in message:
        return ExpressionError(1, f"is nested too deeply, in more than {NESTING_LIMIT} levels: use several branches")
    if (found := _CEL_ERROR.search(message)) is None:
        return ExpressionError(1, excerpt(message))
    line, column, what = int(found[1]), int(found[2]), found[3]
    lines = reading.text.split("\n")
    at = sum(len(it) + 1 for it in lines[: line - 1]) + column if line > 0 else 1
    return ExpressionError(max(1, min(at, len(reading.text) + 1)), _in_plain_words(what, reading.uses))


def _in_plain_words(message: str, uses: Mapping[str, Use] | None = None) -> str:
    if found := _NO_OVERLOAD.match(message):
        return _mismatch(found[1], [kind.strip() for kind in found[2].split(", ")])
    message = re.sub(r" expecting .*", "", message.removeprefix("Syntax error: ")).replace("'<EOF>'", "end")
    for name, use in (uses or {}).items():
        message = re.sub(rf"'{name}'", lambda _, use=use: quoted(path_text(use.path)), message)  # type: ignore[misc]
    return re.sub("mismatched input|extraneous input|token recognition error at:", "unexpected", message)


def _mismatch(operator: str, kinds: list[str]) -> str:
    sign = operator.replace("@", "").replace("_?_:_", "? :").strip("_")
    words = " and ".join(_CEL_WORDS.get(kind, "a list" if kind.startswith("list") else kind) for kind in kinds)
    remedy = ""
    if {"int", "double"} <= set(kinds) or ("double" in kinds and any("list(int)" in kind for kind in kinds)):
        remedy = ": write a number with a point, such as 3.0, or double(…) around the integer"
    elif sign in ("&&", "||", "!"):
        remedy = ": compare the value first, for example with =="
    elif "null_type" in kinds:
        remedy = ": this value is never null"
    return f"{sign} cannot be applied to {words}{remedy}"
