"""Finds the defects of a spec before anything runs on it.

The rules are in `rules`; docs/machines.md describes each of them.
"""

from collections.abc import Iterator
from pathlib import Path as FilePath

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.defects import Defect, Path, SpecError, in_order
from fsm_runner.machine.rules import RULES, RuleContext
from fsm_runner.machine.spec import ActorInterface, Spec
from fsm_runner.machine.spec_file import SpecFile, read


def check(machine: Spec | SpecFile, interface: ActorInterface | None = None) -> tuple[Defect, ...]:
    """Return all defects, each once, by line; none if the machine is sound.

    The defects of a `Spec` that no file contains have no line. For a `SpecFile` that could not be decoded completely,
    the rules judge only the parts that are certain. Without an interface, the names that an actor must know are free.
    """
    file = SpecFile(spec=machine) if isinstance(machine, Spec) else machine
    return in_order((*file.defects, *(file.defect(problem) for problem in _problems(file, interface))))


def checked(path: FilePath | str, interface: ActorInterface | None = None) -> Spec:
    """Return the sound spec in a file. Raises `SpecError` with all defects."""
    file = read(path)
    if defects := check(file, interface):
        raise SpecError(defects)
    return file.spec


def _problems(file: SpecFile, interface: ActorInterface | None) -> Iterator[Problem]:
    damaged_parts = {path[0] for path in file.damaged}
    damaged_states = frozenset(str(path[1]) for path in file.damaged if path[0] == "states" and len(path) > 1)
    context = RuleContext(file.spec, interface, damaged_states)
    for rule in RULES:
        if damaged_parts.isdisjoint(rule.needs_whole):
            yield from (problem for problem in rule.find(context) if not _is_damaged(problem.path, file.damaged))


def _is_damaged(path: Path, damaged: frozenset[Path]) -> bool:
    """Whether the state, group or field that the path names differs from the file, because it could not be decoded.

    A transition never differs: one that could not be decoded is not in the spec.
    """
    if path[0] == "transitions" and len(path) > 1:
        return False
    return any(path[:2] == broken[:2] or path == broken[: len(path)] for broken in damaged)
