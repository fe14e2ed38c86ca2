"""The rules about commands: no value becomes an option, a script or the input of a shell."""

from collections.abc import Iterator
from pathlib import PurePath

from fsm_runner.machine.decoder import Problem
from fsm_runner.util.text import quoted
from fsm_runner.workflow.check.context import Context
from fsm_runner.workflow.definition import Command
from fsm_runner.workflow.templates import Reference, TemplateError, parts_of

_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "fish"})
_SCRIPT_OPTIONS = {
    **dict.fromkeys(_SHELLS, "c"),
    "python": "c",
    "python3": "c",
    "perl": "eE",
    "ruby": "e",
    "node": "ep",
    "php": "r",
}
"""By program: the letters of the options that are followed by a script."""


def value_is_no_option_and_no_script(context: Context) -> Iterator[Problem]:
    for name, state in context.definition.states.items():
        if state.command is None:
            continue
        place = ("states", name, "command")
        for index, argument in enumerate(state.command.run):
            if index and (prefix := _prefix(argument)) is not None and prefix and not prefix.strip("-"):
                message = f"{quoted(argument)}: the value would choose the option; write its name, as in --name=${{…}}"
                yield Problem((*place, "run", index), message)
        for index in _scripts(state.command):
            if _has_value(state.command.run[index]):
                message = (
                    "the program would execute the value as a part of its script: pass it as a further argument "
                    "(in a shell, $1), or through `stdin`"
                )
                yield Problem((*place, "run", index), message)
        if _reads_script(state.command) and state.command.stdin is not None and _has_value(state.command.stdin):
            message = "the shell would execute the value: name a script in `run`, which reads its standard input"
            yield Problem((*place, "stdin"), message)


def _program(command: Command) -> str:
    return PurePath(command.run[0]).name


def _scripts(command: Command) -> Iterator[int]:
    """Yield the indices of the arguments that the program executes."""
    letters = _SCRIPT_OPTIONS.get(_program(command), "")
    for index, argument in enumerate(command.run[1:], 1):
        is_option = argument.startswith("-") and not argument.startswith("--")
        if is_option and any(letter in argument for letter in letters) and index + 1 < len(command.run):
            yield index + 1
            return
        if not is_option:
            return


def _reads_script(command: Command) -> bool:
    """Whether a shell executes its standard input."""
    options = [argument for argument in command.run[1:] if argument.startswith("-")]
    return (
        _program(command) in _SHELLS and len(options) == len(command.run) - 1 and not any("c" in it for it in options)
    )


def _prefix(argument: str) -> str | None:
    """Return the literal text before the first value of an argument; None if it has no value."""
    try:
        parts = parts_of(argument)
    except TemplateError:
        return None  # reported already
    if not any(isinstance(part, Reference) for part in parts):
        return None
    return parts[0] if isinstance(parts[0], str) else ""


def _has_value(argument: str) -> bool:
    return _prefix(argument) is not None
