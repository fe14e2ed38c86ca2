"""Templates: texts in which `${path}` stands for a value (docs/workflows.md, "Values").

An inserted value is never expanded again, because each template is read once, from the file.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fsm_runner.machine.defects import Path
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.util.text import quoted, truncated

ITEM_NAMES = frozenset({"item", "index"})
"""The names that exist only for the elements of `each`."""

_TOKEN = re.compile(r"\$\$\{|\$\{(?:([^}]*)\})?")
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


class TemplateError(ValueError):
    """A template is malformed, or a value that it needs is missing. `at`: its place in what was expanded."""

    def __init__(self, message: str, at: Path = ()) -> None:
        super().__init__(message)
        self.at = at


class Reference(NamedTuple):
    """`${a.b}` in a template."""

    path: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the value: `a`."""
        return self.path[0]

    def __str__(self) -> str:
        return ".".join(self.path)


def parts_of(template: str) -> tuple[str | Reference, ...]:
    """Return the literal texts, none of which is empty, and the references. Raises `TemplateError`."""
    parts: list[str | Reference] = []
    literal, end = "", 0
    for found in _TOKEN.finditer(template):
        literal += template[end : found.start()]
        end = found.end()
        if found[0] == "$${":
            literal += "${"
            continue
        parts += [*([literal] if literal else []), _reference(found)]
        literal = ""
    literal += template[end:]
    return (*parts, literal) if literal else tuple(parts)


def _reference(found: re.Match[str]) -> Reference:
    if (inside := found[1]) is None:
        raise TemplateError('"${" has no "}" behind it; write "$${" for a literal "${"')
    if not _PATH.fullmatch(path := inside.strip()):
        shown = quoted(truncated(found[0], limit_chars=60))
        raise TemplateError(
            f'{shown} must contain names with dots, as in "${{work.result}}"; "$${{" is a literal "${{"'
        )
    return Reference(tuple(path.split(".")))


def texts_in(value: Any, at: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield the place and the template of each text in a value from the file."""
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from texts_in(part, (*at, key))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from texts_in(part, (*at, index))


def has_references(value: Any) -> bool:
    """Return whether any text in a value from the file refers to a value. Raises `TemplateError`."""
    return any(isinstance(part, Reference) for _, text in texts_in(value) for part in parts_of(text))


def expand(value: Any, names: Mapping[str, Any], at: Path = (), *, keep: frozenset[str] = frozenset()) -> Any:
    """Return a value from the file with all texts in it expanded. The names of members are literal.

    A text that consists of one reference becomes the value, with its type. A text that refers to one of `keep` stays
    as it is. Raises `TemplateError`.
    """
    if isinstance(value, dict):
        return {key: expand(part, names, (*at, key), keep=keep) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [expand(part, names, (*at, index), keep=keep) for index, part in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        parts = parts_of(value)
        if any(isinstance(part, Reference) and part.name in keep for part in parts):
            return value
        if len(parts) == 1 and isinstance(parts[0], Reference):
            return looked_up(parts[0], names)
        return "".join(part if isinstance(part, str) else text_of(looked_up(part, names)) for part in parts)
    except TemplateError as error:
        raise TemplateError(str(error), at) from None


def expand_text(template: str, names: Mapping[str, Any], at: Path = (), *, keep: frozenset[str] = frozenset()) -> str:
    """Return the text of a template, also if it consists of one reference. Raises `TemplateError`."""
    return text_of(expand(template, names, at, keep=keep))


def could_be_option(template: str, argument: str) -> bool:
    """Return whether a value has made an argument of a program one that the program could take as an option.

    `argument`: the text of the template. Raises `TemplateError`.
    """
    return argument.startswith("-") and not isinstance(parts_of(template)[0], str)


def looked_up(reference: Reference, names: Mapping[str, Any]) -> Any:
    """Return the value of a reference. Raises `TemplateError` if there is none."""
    value: Any = names
    for length, name in enumerate(reference.path):
        if not isinstance(value, Mapping) or name not in value:
            raise TemplateError(f"{quoted(str(reference))} has no value: {_why(reference, length, value)}")
        value = value[name]
    return value


def _why(reference: Reference, length: int, value: Any) -> str:
    if length == 0:
        return f"nothing has assigned {quoted(reference.name)}"
    owner = quoted(".".join(reference.path[:length]))
    if not isinstance(value, Mapping):
        return f"{owner} is not an object"
    return truncated(f"{owner} has {', '.join(map(str, value)) or 'no fields'}", limit_chars=200)


def text_of(value: Any) -> str:
    """Return the text that a value has inside a longer text: a text is itself, everything else is JSON."""
    return value if isinstance(value, str) else encode_json(value).decode()
