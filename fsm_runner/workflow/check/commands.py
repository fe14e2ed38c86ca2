"""The rules about commands: no value becomes an option, or a part of what a program executes."""

from collections.abc import Iterator
from pathlib import PurePath

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.defects import Path
from fsm_runner.util.text import quoted
from fsm_runner.workflow.check.context import Context
from fsm_runner.workflow.check.executed import CODE_TAKERS, Danger, dangers, prefix_of
from fsm_runner.workflow.definition import Command

_SCRIPT_FIRST = (
    'values may only be behind its script, which is literal: ["sh", "-c", "SCRIPT", "sh", "${…}"], '
    'or ["python3", "FILE", "${…}"]'
)
_PROGRAM_FIRST = (
    "values may only be behind the program that it starts, which is literal; write `--` before the program if options "
    "are before it"
)


def value_is_no_option_and_no_script(context: Context) -> Iterator[Problem]:
    for name, state in context.definition.states.items():
        if state.command is None:
            continue
        place = ("states", name, "command")
        yield from _unusable(state.command, place)
        for index, argument in enumerate(state.command.run):
            if index and (prefix := prefix_of(argument)) is not None and prefix and not prefix.strip("-"):
                message = f"{quoted(argument)}: the value would choose the option; write its name, as in --name=${{…}}"
                yield Problem((*place, "run", index), message)
        stdin = state.command.stdin
        has_input = stdin is not None and prefix_of(stdin) is not None
        found = [it for danger in dangers(state.command.run) for it in _dangerous(danger, place, has_input=has_input)]
        yield from {problem.path: problem for problem in found}.values()


def _dangerous(danger: Danger, place: Path, *, has_input: bool) -> Iterator[Problem]:
    program = quoted(danger.program)
    if danger.argument is not None and danger.variable is not None:
        remedy = f"programs execute what {danger.variable} names; write a literal text, or use another variable"
        yield Problem((*place, "run", danger.argument), f"{program} could execute the value: {remedy}")
    elif danger.argument is not None:
        remedy = _PROGRAM_FIRST if danger.is_wrapper else _SCRIPT_FIRST
        if danger.program in CODE_TAKERS:
            remedy = "pass it through `stdin` of a command that does not execute it, or to a script of your own"
        yield Problem((*place, "run", danger.argument), f"{program} could execute the value: {remedy}")
    elif danger.reads_input and has_input:
        remedy = _PROGRAM_FIRST if danger.is_wrapper else "name a literal script in `run`, which reads the input"
        yield Problem((*place, "stdin"), f"{program} could execute the value: {remedy}")


def _unusable(command: Command, place: Path) -> Iterator[Problem]:
    """Yield what no system can start."""
    program = command.run[0]
    if not program.strip():
        yield Problem((*place, "run", 0), "is empty: name a program")
    elif _has_arguments(program):
        words = ", ".join(map(quoted, program.split()))
        yield Problem(
            (*place, "run", 0), f"{quoted(program)} is no program: write each argument as a text of its own, [{words}]"
        )


def _has_arguments(program: str) -> bool:
    """Whether a text is a command line. The folders of a program may have blanks in their names."""
    words = program.split()
    return len(words) > 1 and (len(PurePath(program).name.split()) > 1 or any(it.startswith("-") for it in words[1:]))
