"""Finds what is unsound in a spec before anything runs on it.

The rules are in `rules`; each is described in docs/machines.md.
"""

from collections.abc import Iterator
from pathlib import Path as FilePath

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.defects import Defect, Path, SpecError, in_order
from fsm_runner.machine.rules import RULES, Case
from fsm_runner.machine.spec import ActorInterface, Spec
from fsm_runner.machine.spec_file import Source, read


def check(machine: Spec | Source, interface: ActorInterface | None = None) -> tuple[Defect, ...]:
    """All defects, each once, by line; none when the machine is sound.

    A `Spec` that was built in a program gives defects without a line. Of a `Source` that could not be decoded
    completely, the defects of form are there too, and of the others those that what is missing could not undo.
    Without a interface, what an actor can do is not judged.
    """
    source = Source(spec=machine) if isinstance(machine, Spec) else machine
    found = (source.defect(problem) for problem in _problems(source, interface))
    return in_order((*source.defects, *found))


def check_file(path: FilePath | str, interface: ActorInterface | None = None) -> tuple[Defect, ...]:
    """All defects of a file: also those that keep it from being read."""
    try:
        return check(read(path), interface)
    except SpecError as error:
        return error.defects


def checked(path: FilePath | str, interface: ActorInterface | None = None) -> Spec:
    """The sound spec in a file.

    Raises `SpecError` with all defects, of form and of sense.
    """
    source = read(path)
    if defects := check(source, interface):
        raise SpecError(defects)
    return source.spec


def _problems(source: Source, interface: ActorInterface | None) -> Iterator[Problem]:
    case = Case(source.spec, interface, frozenset(str(path[1]) for path in source.damaged if _is_in(path, "states")))
    damaged_parts = {path[0] for path in source.damaged}
    for rule in RULES:
        if damaged_parts.isdisjoint(rule.needs_whole):
            for problem in rule.find(case):
                if not _is_damaged(problem.path, source.damaged):
                    yield problem


def _is_in(path: Path, part: str) -> bool:
    return len(path) > 1 and path[0] == part


def _is_damaged(path: Path, damaged: frozenset[Path]) -> bool:
    """Whether a state, or what the path names, was not decoded as it stands in the file.

    A transition of the spec never is: one that could not be decoded is not in it.
    """
    if _is_in(path, "transitions"):
        return False
    return any(path[:2] == broken[:2] or path == broken[: len(path)] for broken in damaged)
