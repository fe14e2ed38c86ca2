"""The parts of a drawing that all formats share: nodes, boxes and arrows."""

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from fsm_runner.machine.groups import Hierarchy, flatten
from fsm_runner.machine.render.text import FAILURE_MARK, identifiers, one_line
from fsm_runner.machine.spec import Spec, State, Transition


class Tone(StrEnum):
    """What the colour of a state says."""

    WORKING = "working"
    WAITING = "waiting"
    GOOD = "good"
    BAD = "bad"
    NEUTRAL = "neutral"
    ANY = "any"
    """Not a state: where an arrow starts that leads from a group to one of its own members."""


class Kind(StrEnum):
    """The emphasis of an arrow, strongest first."""

    MAIN = "main"
    OTHER = "other"
    FAILURE = "failure"


class Node(NamedTuple):
    id: str
    """The name if that is an identifier in every format, otherwise one made from it."""
    name: str
    state: State
    tone: Tone
    is_main: bool
    """The main path touches it."""


class Box(NamedTuple):
    """A group; `Diagram.root` is the whole machine."""

    id: str
    name: str
    members: "tuple[Node | Box, ...]"

    def walk(self) -> "Iterator[Node | Box]":
        """Yield all nodes and boxes inside, each box before its members."""
        for member in self.members:
            yield member
            if isinstance(member, Box):
                yield from member.walk()


class Label(NamedTuple):
    """One transition in the text of an arrow."""

    event: str
    """Empty if the label represents several failures."""
    guard: str | None
    decides: str | None
    kind: Kind

    def __str__(self) -> str:
        """Return `✗ event [guard] / outcome` on one line, each part only if there is one."""
        mark = FAILURE_MARK if self.kind is Kind.FAILURE else ""
        guard = "" if self.guard is None else f"[{one_line(self.guard)}]"
        decides = "" if self.decides is None else f"/ {one_line(self.decides)}"
        return " ".join(part for part in (mark, one_line(self.event), guard, decides) if part)


class Arrow(NamedTuple):
    source: str
    """The id of a node or box."""
    target: str
    """The id of a node."""
    labels: tuple[Label, ...]
    """One for each transition."""

    @property
    def kind(self) -> Kind:
        return min((label.kind for label in self.labels), key=list(Kind).index)


class Diagram(NamedTuple):
    root: Box
    initial: Node
    arrows: tuple[Arrow, ...]

    @property
    def start_kind(self) -> Kind:
        """The kind of the arrow that leads to the initial state."""
        return Kind.MAIN if self.initial.is_main else Kind.OTHER

    @property
    def nodes(self) -> list[Node]:
        return [item for item in self.root.walk() if isinstance(item, Node)]

    @property
    def boxes(self) -> list[Box]:
        """All boxes but the root, each before those inside it."""
        return [item for item in self.root.walk() if isinstance(item, Box)]


def diagram(spec: Spec, *, brief: bool = False) -> Diagram:
    """Return the drawing of a spec whose groups are sound.

    A name that is neither a state nor a group is drawn as a state, so that the mistake is visible. With `brief`, at
    most one arrow joins two ends, and one label on it represents all failures that decide the same outcome.
    """
    hierarchy = Hierarchy(spec)
    ends = (spec.initial, *(name for transition in spec.transitions for name in (*transition.sources, transition.to)))
    names = dict.fromkeys((*outside_in(spec), *ends))
    ids = identifiers(names)
    states = {name: spec.states.get(name, State()) for name in names if name not in spec.groups}
    main = {name for transition in spec.transitions if transition.main for name in (*transition.sources, transition.to)}
    nodes = {name: Node(ids[name], name, state, tone(state), name in main) for name, state in states.items()}
    groups_around = {name: hierarchy.ancestors(name) for name in names}
    # A group's arrow to a member would run inside its own box: it starts at a mark in the box instead.
    inward = dict.fromkeys(name for it in spec.transitions for name in it.sources if name in groups_around[it.to])
    ids_of_marks = identifiers((f"any of {group}" for group in inward), taken=ids.values())
    marks = {
        group: Node(id_, name, State(), Tone.ANY, is_main=False)
        for group, (name, id_) in zip(inward, ids_of_marks.items(), strict=True)
    }

    def members(group: str | None) -> tuple[Node | Box, ...]:
        drawn = (
            nodes[name] if name in nodes else Box(ids[name], name, members(name))
            for name, groups in groups_around.items()
            if next(iter(groups), None) == group
        )
        return (*(mark for name, mark in marks.items() if name == group), *drawn)

    def arrows() -> Iterator[Arrow]:
        for transition, flat in zip(spec.transitions, flatten(spec).transitions, strict=True):
            failure = any(is_failure(states[source], transition) for source in flat.sources)
            kind = Kind.MAIN if transition.main else Kind.FAILURE if failure else Kind.OTHER
            label = Label(transition.event, transition.guard, transition.decides, kind)
            for source in transition.sources:
                start = marks[source].id if source in groups_around[transition.to] else ids[source]
                yield Arrow(start, ids[transition.to], (label,))

    drawn_arrows = _merged(arrows()) if brief else arrows()
    return Diagram(Box("", spec.name, members(None)), nodes[spec.initial], tuple(drawn_arrows))


def _merged(arrows: Iterable[Arrow]) -> Iterator[Arrow]:
    pairs: dict[tuple[str, str], list[Arrow]] = {}
    for arrow in arrows:
        pairs.setdefault((arrow.source, arrow.target), []).append(arrow)
    for same in pairs.values():
        labels = (label for arrow in same for label in arrow.labels)
        brief = (it._replace(event="", guard=None) if it.kind is Kind.FAILURE else it for it in labels)
        yield same[0]._replace(labels=tuple(sorted(dict.fromkeys(brief), key=lambda it: list(Kind).index(it.kind))))


def nested_lines(box: Box, declaration: Callable[[Node | Box], str]) -> Iterator[str]:
    """Yield a line for each member of a box. The members of a box in it are indented, between braces."""
    for member in box.members:
        if isinstance(member, Box):
            yield f"{declaration(member)} {{"
            yield from (f"    {line}" for line in nested_lines(member, declaration))
            yield "}"
        else:
            yield declaration(member)


def tone(state: State) -> Tone:
    if state.final or state.tone is not None:
        return Tone(state.tone or Tone.NEUTRAL)
    return Tone.WAITING if state.invoke is None else Tone.WORKING


def is_failure(state: State, transition: Transition) -> bool:
    """Return whether the transition is taken when the state's activity fails or has not ended in time."""
    return state.invoke is not None and transition.event in {state.on_error, state.on_timeout} - {state.on_done}


def outside_in(spec: Spec) -> Iterator[str]:
    """Yield the states in the order of the file, each behind the groups around it. A group may come more than once."""
    hierarchy = Hierarchy(spec)
    for name in spec.states:
        yield from reversed(hierarchy.ancestors(name))
        yield name
