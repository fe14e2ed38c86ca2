"""The rules about commands: no value becomes an option, a script or the input of a shell."""

from collections.abc import Iterator
from pathlib import PurePath

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.defects import Path
from fsm_runner.util.text import quoted
from fsm_runner.workflow.check.context import Context
from fsm_runner.workflow.definition import Command
from fsm_runner.workflow.templates import Reference, TemplateError, parts_of

_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "fish"})
_SCRIPT_OPTIONS = {
    **dict.fromkeys(_SHELLS, "c"),
    "python": "c",
    "perl": "eE",
    "ruby": "e",
    "node": "ep",
    "php": "r",
}
"""By program, without its version: the letters of the options that are followed by a script."""
_LONG_SCRIPT_OPTIONS = frozenset({"--eval", "--print", "--command"})
_OPTIONS_WITH_VALUES = frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file", "-W", "-X", "-I", "-r"})
"""Options of some interpreters that may be followed by a value."""
_WRAPPERS = frozenset(
    {
        "env",
        "sudo",
        "doas",
        "timeout",
        "nice",
        "ionice",
        "nohup",
        "setsid",
        "stdbuf",
        "time",
        "xargs",
        "flock",
        "busybox",
    }
    | {"chroot", "unshare", "docker", "podman", "kubectl", "uv", "poetry"}
)
"""Programs that start the program in their arguments."""


def value_is_no_option_and_no_script(context: Context) -> Iterator[Problem]:
    for name, state in context.definition.states.items():
        if state.command is None:
            continue
        place = ("states", name, "command")
        yield from _unusable(state.command, place)
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


def _unusable(command: Command, place: Path) -> Iterator[Problem]:
    """Yield what no system can start."""
    program = command.run[0]
    if not program.strip():
        yield Problem((*place, "run", 0), "is empty: name a program")
    elif "/" not in program and len(program.split()) > 1:
        words = ", ".join(map(quoted, program.split()))
        yield Problem(
            (*place, "run", 0), f"{quoted(program)} is no program: write each argument as a text of its own, [{words}]"
        )


def _program(argument: str) -> str:
    """Return the name of a program, without its folder and its version: `python` of `/usr/bin/python3.12`."""
    return PurePath(argument).name.rstrip("0123456789.")


def _interpreters(command: Command) -> Iterator[int]:
    """Yield the indices of the arguments that may be an interpreter that is started."""
    is_wrapped = _program(command.run[0]) in _WRAPPERS
    for index, argument in enumerate(command.run):
        if (index == 0 or is_wrapped) and _program(argument) in _SCRIPT_OPTIONS:
            yield index


def _scripts(command: Command) -> Iterator[int]:
    """Yield the indices of the arguments that an interpreter executes."""
    for start in _interpreters(command):
        letters = _SCRIPT_OPTIONS[_program(command.run[start])]
        index = start + 1
        while index < len(command.run) and (argument := command.run[index]).startswith(("-", "+")):
            is_long = argument.startswith("--")
            if argument in _LONG_SCRIPT_OPTIONS or (not is_long and any(letter in argument for letter in letters)):
                yield from (at for at in (index, index + 1) if at < len(command.run))
                break
            index += 1
            if (
                argument in _OPTIONS_WITH_VALUES
                and index < len(command.run)
                and command.run[index][:1] not in ("-", "+")
            ):
                index += 1


def _reads_script(command: Command) -> bool:
    """Whether a shell executes its standard input."""
    for start in _interpreters(command):
        arguments = command.run[start + 1 :]
        is_shell = _program(command.run[start]) in _SHELLS
        if is_shell and all(it.startswith("-") for it in arguments) and not any("c" in it for it in arguments):
            return True
    return False


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
