"""Describes a machine as a section of a Markdown document: diagram and tables."""

import re
from collections.abc import Iterable, Iterator

from fsm_runner.machine.groups import flatten
from fsm_runner.machine.render.diagram import is_failure
from fsm_runner.machine.render.mermaid import mermaid
from fsm_runner.machine.render.text import FAILURE_MARK, duration, one_line, retries
from fsm_runner.machine.spec import Spec, State

# A code span, or a character with a meaning. An underscore between letters or digits has none.
_MARKUP = re.compile(r"(?<!`)`[\w./:= -]+`(?!`)|([\\`*\[\]<>|~&$#]|(?<![^\W_])_|_(?![^\W_]))")
_MARKUP_OF_A_LINE = re.compile(r"^([0-9]*)([-+=.)])")


def markdown(spec: Spec, *, brief: bool = False) -> str:
    """Return title, diagram, and the text of `tables`."""
    diagram = f"```mermaid\n{mermaid(spec, brief=brief)}```"
    return f"### The machine {code(spec.name)}\n\n{diagram}\n\n{tables(spec)}"


def tables(spec: Spec) -> str:
    """Return the description, and the tables of events, tags, groups, states and transitions."""
    parts = (
        prose(spec.doc),
        _table(("Event", "Meaning"), ((code(name), prose(doc)) for name, doc in spec.events.items())),
        _table(("Tag", "Meaning"), ((code(name), prose(doc)) for name, doc in spec.tags.items())),
        _table(("Group", "Meaning", "Members", "Ignores", "Rejects", "Tags"), _group_rows(spec)),
        _table(
            ("State", "Meaning", "Activity", "Time limit", "Retries", "Ignores", "Rejects", "Tags", "Outcome"),
            (_state_row(name, state) for name, state in spec.states.items()),
        ),
        _table(("From", "Event", "Guard", "To", "Decides", "Note"), _transition_rows(spec)),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _group_rows(spec: Spec) -> Iterator[tuple[str, ...]]:
    for name, group in spec.groups.items():
        members = ", ".join(prose(member) for member in group.states)
        yield prose(name), prose(group.doc), members, _codes(group.ignore), _codes(group.reject), _codes(group.tags)


def _state_row(name: str, state: State) -> tuple[str, ...]:
    return (
        f"**{prose(name)}**" if state.final else prose(name),
        prose(state.doc),
        code(state.invoke),
        duration(state.timeout_s) if isinstance(state.timeout_s, int | float) else code(state.timeout_s),
        "" if state.retry is None else retries(state.retry),
        _codes(state.ignore),
        _codes(state.reject),
        _codes(state.tags),
        f"{code(state.outcome)} ({state.tone})" if state.outcome is not None and state.tone else code(state.outcome),
    )


def _transition_rows(spec: Spec) -> Iterator[tuple[str, ...]]:
    for transition, flat in zip(spec.transitions, flatten(spec).transitions, strict=True):
        fails = any(is_failure(spec.states[source], transition) for source in flat.sources if source in spec.states)
        yield (
            ", ".join(prose(source) for source in transition.sources),
            f"{FAILURE_MARK} {code(transition.event)}" if fails else code(transition.event),
            code(transition.guard),
            prose(transition.to),
            f"{code(transition.decides)} (provisional)" if transition.provisional else code(transition.decides),
            prose(transition.doc),
        )


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table without the columns that are empty in every row, or nothing if there are no rows."""
    all_rows = list(rows)
    used = [column for column in range(len(heads)) if any(row[column] for row in all_rows)]
    lines = [[heads[column] for column in used], ["---"] * len(used)]
    lines += [[row[column] for column in used] for row in all_rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if all_rows else ""


def prose(text: str) -> str:
    """Return text that Markdown shows as it is, but for words in backticks, in a paragraph or in a table."""
    escaped = _MARKUP.sub(lambda found: f"\\{found[1]}" if found[1] else found[0], one_line(text))
    return _MARKUP_OF_A_LINE.sub(r"\1\\\2", escaped)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(code(name) for name in names)


def code(text: str | None) -> str:
    """Return the text as a code span, or nothing."""
    plain = one_line(text or "")
    if any(char in plain for char in "`|\\<&"):
        return prose(plain)
    return f"`{plain}`" if plain else ""
