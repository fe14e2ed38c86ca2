"""Reads the names in a guard, which `expressions` leaves to CEL with a variable in place of each.

CEL copies whatever a variable holds before it evaluates, and its `contains` takes quadratic time. So this module
resolves paths, sizes, and searches in texts and lists, and CEL only gets the results: the time that a guard takes does
not depend on what a value holds. It also knows which part of a name is misspelt, and the column of that part.
"""

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from fsm_runner.machine.decoder import similar
from fsm_runner.util.text import quoted
from fsm_runner.workflow.value_types import Kind, NameTypes, Step, UnknownPath, ValueType, path_text, type_at

METHODS = ("contains", "startsWith", "endsWith")
_LOOPS = ("map", "filter", "all", "exists", "exists_one", "existsOne", "transformList", "transformMap")
_WORDS = {"and": "&&", "or": "||", "not": "!", "True": "true", "False": "false", "None": "null"}
_SIGNS = {"=": "==", "&": "&&", "|": "||"}
_LITERALS = ("true", "false", "null")
_BEFORE_A_SEARCH = ("", "(", "&&", "||", "?", ":", "[", ",")
"""What may come before `'a' in list`: operators that bind less tightly than `in`."""

_TOKEN = re.compile(
    r"""(?P<space>(?:\s|//[^\n]*)+)
    |(?P<string>'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")
    |(?P<number>(?:[0-9]+\.[0-9]+|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>&&|\|\||[=!<>]=|.)""",
    re.VERBOSE | re.DOTALL,
)


class ExpressionError(Exception):
    """The expression is not a guard, or cannot be evaluated. The text says why, and what to do."""

    def __init__(self, column: int, message: str) -> None:
        """`column`: counted from 1, in the whole expression."""
        super().__init__(message)
        self.column = column


class Token(NamedTuple):
    kind: str
    text: str
    at: int
    """Where it begins, counted from 0."""

    @property
    def end(self) -> int:
        return self.at + len(self.text)


_END = Token("end", "", -1)

Operation = Literal["value", "size", "has", "in", "contains", "startsWith", "endsWith"]


class Use(NamedTuple):
    """A value that an expression uses, and the variable that CEL gets for it."""

    operation: Operation
    path: tuple[Step, ...]
    type: ValueType
    """The type of the value at the path."""
    literal: Any
    """What a search looks for."""
    column: int

    @property
    def kind(self) -> Kind:
        """The kind of the variable."""
        if self.operation == "value":
            return self.type.kind
        return Kind.INTEGER if self.operation == "size" else Kind.BOOLEAN


class Read(NamedTuple):
    """An expression with variables in place of names. All columns are those of the original."""

    text: str
    uses: dict[str, Use]
    """By variable."""
    tokens: tuple[Token, ...]


def read(text: str, names: NameTypes, literal_of: Callable[[str, int], Any]) -> Read:
    """Replace all names. `literal_of` returns the value of a literal, given its text and column.

    Raises `ExpressionError`.
    """
    return _Reader(text, names, literal_of).read()


class _Reader:
    def __init__(self, text: str, names: NameTypes, literal_of: Callable[[str, int], Any]) -> None:
        self._tokens = [
            Token(str(found.lastgroup), found[0], found.start())
            for found in _TOKEN.finditer(text)
            if found.lastgroup != "space"
        ]
        self._names = names
        self._literal_of = literal_of
        self._text = list(text)
        self._variables: dict[tuple[Any, ...], str] = {}
        self._uses: dict[str, Use] = {}

    def read(self) -> Read:
        at = 0
        while at < len(self._tokens):
            at = self._next(at)
        return Read("".join(self._text), self._uses, tuple(self._tokens))

    def _next(self, at: int) -> int:
        """Read what begins with a token, and return the index of the token after it."""
        token, after = self._token(at), self._token(at + 1)
        is_literal = token.kind in ("string", "number") or token.text in _LITERALS
        if is_literal and after.text == "in" and self._is_root(self._token(at + 2)):
            return self._search_in_list(at)
        if token.kind == "sign":
            self._check_sign(token, self._token(at - 1) if at else _END)
        if token.kind != "name" or token.text in (*_LITERALS, "in"):
            return at + 1
        if after.text == "(":
            return self._function(at)
        if token.text in _WORDS and token.text not in self._names:
            raise _error(token, f"write {_WORDS[token.text]} instead of {token.text}")
        return self._value(at)

    def _check_sign(self, token: Token, before: Token) -> None:
        if token.text in _SIGNS:
            raise _error(token, f"write {_SIGNS[token.text]} instead of {token.text}")
        if token.text == "$":
            raise _error(token, "a guard names its values without ${…}, as in verify.exit_code == 0")
        if token.text == "{":
            raise _error(token, "a guard contains no objects: compare the fields one by one")
        if token.text in "\"'":
            raise _error(token, "this text has no end: close it with the same quote on the same line")
        if token.text in ".[" and (before.text in (")", "]") or before.kind == "string"):
            raise _error(token, f"{quoted(token.text)} can only follow the name of a value")

    def _function(self, at: int) -> int:
        token = self._token(at)
        if token.text in ("size", "has"):
            end, path = self._path(at + 2)
            if not path or self._token(end).text != ")":
                raise _error(token, f"{token.text}() takes the name of a value, such as {token.text}(plan.data.tasks)")
            found = self._type(at + 2, path)
            # The type checker does not know that the text of these tokens is an `Operation`.
            (self._check_size if token.text == "size" else self._check_has)(self._token(at + 2), path, found)
            return self._replace(at, end + 1, Use(token.text, tuple(path), found, None, token.at + 1))  # type: ignore[arg-type]
        if token.text in ("int", "double"):
            return at + 1
        raise _error(token, _unknown_function(token.text))

    def _value(self, at: int) -> int:
        end, path = self._path(at)
        token = self._token(at)
        if self._token(end).text == "(":
            return self._method(at, end, path)
        found = self._type(at, path)
        if found.kind in (Kind.LIST, Kind.OBJECT):
            raise _error(token, _container(path, found))
        return self._replace(at, end, Use("value", tuple(path), found, None, token.at + 1))

    def _method(self, at: int, end: int, path: list[Step]) -> int:
        *path, method = path
        token = self._token(end - 1)
        if method not in METHODS:
            raise _error(token, _unknown_function(str(method), path))
        found = self._type(at, path)
        if found.kind not in (Kind.TEXT, Kind.ANY):
            raise _error(token, f"{method}() searches in a text, but {path_text(path)} is {found.kind}")
        argument = self._token(end + 1)
        if argument.kind != "string" or self._token(end + 2).text != ")":
            raise _error(argument if argument.at >= 0 else token, f"{method}() takes a text in quotes")
        literal = self._literal_of(argument.text, argument.at + 1)
        # As in `_function`, the method is an `Operation`.
        use = Use(method, tuple(path), found, literal, self._token(at).at + 1)  # type: ignore[arg-type]
        return self._replace(at, end + 3, use)

    def _search_in_list(self, at: int) -> int:
        token, before = self._token(at), self._token(at - 1) if at else _END
        end, path = self._path(at + 2)
        if self._token(end).text == "(":
            raise _error(self._token(end), "what follows `in` must be a list")
        if before.text not in _BEFORE_A_SEARCH:
            raise _error(token, f"put parentheses around {token.text} in {path_text(path)}")
        found = self._type(at + 2, path)
        literal = self._literal_of(token.text, token.at + 1)
        if found.kind not in (Kind.LIST, Kind.OBJECT, Kind.ANY):
            raise _error(
                self._token(at + 2), f"what follows `in` must be a list, but {path_text(path)} is {found.kind}"
            )
        wanted = Kind.TEXT if found.kind is Kind.OBJECT else found.element.kind if found.element else Kind.ANY
        if wanted not in (Kind.ANY, *_kinds_of(literal)):
            kind = "the names of its fields are texts" if found.kind is Kind.OBJECT else f"an element is {wanted}"
            raise _error(token, f"{path_text(path)} never contains {token.text}: {kind}")
        return self._replace(at, end, Use("in", tuple(path), found, literal, token.at + 1))

    def _path(self, at: int) -> tuple[int, list[Step]]:
        """Return the path that begins with a token, and the index of the token after it."""
        if not self._is_root(self._token(at)):
            return at, []
        path: list[Step] = [self._token(at).text]
        at += 1
        while True:
            token, after = self._token(at), self._token(at + 1)
            if token.text == "." and after.kind == "name":
                path.append(after.text)
                at += 2
            elif token.text == "[":
                if self._token(at + 2).text != "]" or not (after.text.isdecimal() or after.kind == "string"):
                    raise _error(token, "an index is a number such as [0], or the name of a field in quotes")
                index = self._literal_of(after.text, after.at + 1)
                if not isinstance(index, str | int):
                    raise _error(after, "an index is a number such as [0], or the name of a field in quotes")
                path.append(index)
                at += 3
            else:
                return at, path

    def _type(self, at: int, path: list[Step]) -> ValueType:
        try:
            return type_at(self._names, path)
        except UnknownPath as unknown:
            # Each step but the first has a dot before it, or is between brackets.
            position = at
            for _ in range(unknown.step):
                position += 2 if self._token(position + 1).text == "." else 3
            token = self._token(position)
            raise _error(self._token(position - 1) if token.text == "]" else token, str(unknown)) from None

    def _check_size(self, token: Token, path: list[Step], found: ValueType) -> None:
        if found.kind not in (Kind.LIST, Kind.OBJECT, Kind.TEXT, Kind.ANY):
            raise _error(token, f"{path_text(path)} is {found.kind}, which has no size")

    def _check_has(self, token: Token, path: list[Step], found: ValueType) -> None:
        if len(path) < 2 or not isinstance(path[-1], str):
            raise _error(token, "has() takes an optional field, such as has(review.data.note)")
        if found.kind is not Kind.ANY and not found.is_optional:
            raise _error(token, f"{path_text(path)} is not optional: has() is only for optional fields of data")

    def _replace(self, start: int, end: int, use: Use) -> int:
        """Put a variable in place of some tokens, and blanks behind it, so that no column changes."""
        key = (use.operation, use.path, type(use.literal), use.literal)
        if key not in self._variables:
            self._variables[key] = f"_{_base_36(len(self._variables))}"
            self._uses[self._variables[key]] = use
        variable = self._variables[key]
        first, last = self._token(start).at, self._token(end - 1).end
        self._text[first:last] = variable.ljust(last - first)
        return end

    def _is_root(self, token: Token) -> bool:
        return token.kind == "name" and token.text not in (*_LITERALS, "in")

    def _token(self, index: int) -> Token:
        return self._tokens[index] if index < len(self._tokens) else _END


def _kinds_of(literal: Any) -> tuple[Kind, ...]:
    if literal is None:
        return (Kind.NULL,)
    if isinstance(literal, bool):
        return (Kind.BOOLEAN,)
    if isinstance(literal, str):
        return (Kind.TEXT,)
    return (Kind.INTEGER, Kind.NUMBER) if isinstance(literal, int) else (Kind.NUMBER,)


def _unknown_function(name: str, path: list[Step] | None = None) -> str:
    if name in _LOOPS:
        return f"{name}() is a loop, and a guard has none: let the activity produce the answer as a field of its data"
    if name == "matches":
        return f"a guard has no matches(): use {', '.join(METHODS[:2])} or {METHODS[2]}"
    if name in ("size", "has"):
        return f"write {name}({path_text(path or [])})"
    known = (*METHODS, "size", "has", "int", "double")
    return f"there is no function {name}{similar(name, known) or '; there are ' + ', '.join(known)}"


def _container(path: list[Step], found: ValueType) -> str:
    if found.kind is Kind.LIST:
        return f"{path_text(path)} is a list: use size(), an index such as [0], or 'text' in {path_text(path)}"
    fields = f", such as {path_text([*path, next(iter(found.fields))])}" if found.fields else ""
    return f"{path_text(path)} is an object: name one of its fields{fields}"


def _error(token: Token, message: str) -> ExpressionError:
    return ExpressionError(max(token.at, 0) + 1, message)


def _base_36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return digits[number] if number < 36 else _base_36(number // 36) + digits[number % 36]
