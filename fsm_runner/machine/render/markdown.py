"""Describes a machine as a section of a Markdown document: diagram and tables."""

from collections.abc import Iterable, Iterator

from fsm_runner.machine.groups import flatten
from fsm_runner.machine.render.diagram import duration, is_failure, one_line, retries
from fsm_runner.machine.render.mermaid import FAILURE_MARK, mermaid
from fsm_runner.machine.spec import Spec, State

_MARKUP = frozenset("\\`*[]<>|~&$#")


def markdown(spec: Spec) -> str:
    """Title, description, diagram, and the tables of events, states and transitions."""
    spec = flatten(spec)
    parts = [f"### The machine {code(spec.name)}", prose(spec.doc)]
    parts.append(f"```mermaid\n{mermaid(spec)}```")
    parts.append(f"{FAILURE_MARK} a failure or a time limit · `[guard]` · `/ outcome` that is decided")
    if spec.events:
        parts.append(_table(("Event", "Meaning"), ((code(name), prose(doc)) for name, doc in spec.events.items())))
    heads = ("State", "Meaning", "Activity", "Time limit", "Retries", "Ignores", "Outcome")
    parts.append(_table(heads, (_state_row(name, state) for name, state in spec.states.items())))
    parts.append(_table(("From", "Event", "Guard", "To", "Decides", "Note"), _transition_rows(spec)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _state_row(name: str, state: State) -> tuple[str, ...]:
    return (
        f"**{prose(name)}**" if state.final else prose(name),
        prose(state.doc),
        code(state.invoke),
        _limit(state),
        "" if state.retry is None else retries(state.retry),
        ", ".join(code(event) for event in state.ignore),
        code(state.outcome),
    )


def _limit(state: State) -> str:
    if state.timeout_s is None:
        return ""
    return code(state.timeout_s) if isinstance(state.timeout_s, str) else duration(state.timeout_s)


def _transition_rows(spec: Spec) -> Iterator[tuple[str, ...]]:
    for way in spec.transitions:
        fails = any(is_failure(spec.states[source], way) for source in way.sources if source in spec.states)
        yield (
            ", ".join(prose(source) for source in way.sources),
            f"{FAILURE_MARK} {code(way.event)}" if fails else code(way.event),
            code(way.guard),
            prose(way.to),
            code(way.decides),
            prose(way.doc),
        )


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table without the columns that are empty in every row."""
    all_rows = list(rows)
    used = [column for column in range(len(heads)) if any(row[column] for row in all_rows)]
    lines = [[heads[column] for column in used], ["---"] * len(used)]
    lines += [[row[column] for column in used] for row in all_rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if all_rows else ""


def prose(text: str) -> str:
    """Text that Markdown shows as it is, in a paragraph or in a table."""
    plain = one_line(text)
    escaped = "".join(
        f"\\{char}" if char in _MARKUP or (char == "_" and not _is_in_word(plain, index)) else char
        for index, char in enumerate(plain)
    )
    head = escaped.lstrip("0123456789")
    return escaped[: len(escaped) - len(head)] + "\\" + head if head[:1] in tuple("-+=.)") else escaped


def _is_in_word(text: str, index: int) -> bool:
    """An underscore between letters or digits marks no emphasis."""
    return text[index - 1 : index].isalnum() and text[index + 1 : index + 2].isalnum()


def code(text: str | None) -> str:
    """Text as a code span, or nothing."""
    if text is None:
        return ""
    plain = one_line(text)
    if any(char in plain for char in "`|\\<&"):
        return prose(plain)
    return f"`{plain}`" if plain else ""
