"""Which arguments of a command, and whether its input, could be executed by a program that takes code.

It knows the programs below and no others. Behind a known one, it allows values only where they cannot be code.
"""

import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import NamedTuple

from fsm_runner.workflow.templates import Reference, TemplateError, parts_of

SHELLS = frozenset({"sh", "bash", "rbash", "dash", "zsh", "ksh", "mksh", "ash", "fish", "csh", "tcsh"})
_CODE_OPTIONS = {
    **dict.fromkeys(SHELLS, "c"),
    **dict.fromkeys(("python", "pypy"), "cm"),
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), "fe"),
    **dict.fromkeys(("node", "nodejs", "bun"), "ep"),
    "perl": "eE",
    "ruby": "e",
    "php": "rf",
    "tclsh": "",
    **dict.fromkeys(("lua", "luajit", "julia", "Rscript", "R", "groovy", "elixir", "guile"), "e"),
}
"""By interpreter, without its version: the letters of the options before its script."""
_LONG_CODE_OPTIONS = frozenset({"--eval", "--print", "--command", "--source", "--file"})
_FLAGS = {**dict.fromkeys(SHELLS - {"fish"}, "abefhiklmnpstuvxBCEHPT"), "python": "bBdEIiOPqsSuvx"}
"""The letters of options that take no value, of interpreters that have many of them."""
_ONE_SCRIPT = (SHELLS - {"fish"}) | {"python", "pypy"}
"""Interpreters that take no option behind the script of an option. Others take further scripts."""
WRAPPERS = {
    **dict.fromkeys(("env", "sudo", "doas", "nice", "ionice", "nohup", "setsid", "stdbuf", "time", "xargs"), 0),
    **dict.fromkeys(("busybox", "toybox", "unshare", "nsenter", "setpriv", "prlimit", "strace", "exec", "npx"), 0),
    **dict.fromkeys(("timeout", "flock", "chroot", "taskset", "chrt"), 1),
}
"""Programs that start a program in their arguments, and the number of own arguments before it."""
LAUNCHERS: dict[str, tuple[frozenset[str], int]] = {
    **dict.fromkeys(("docker", "podman"), (frozenset({"run", "exec", "create"}), 1)),
    **dict.fromkeys(("uv", "poetry"), (frozenset({"run"}), 0)),
    "kubectl": (frozenset({"--"}), 0),
    "find": (frozenset({"-exec", "-execdir", "-ok", "-okdir"}), 0),
}
"""Programs that start a program behind one of these arguments, and the number of arguments between the two.

A value may be before the program, because it may be that of an option.
"""
CODE_TAKERS = frozenset(
    {"su", "runuser", "ssh", "parallel", "watch", "script", "sed", "deno", "pwsh", "powershell", "osascript", "expect"}
)
"""Programs whose arguments are code, or are made a part of it."""
_ASSIGNMENT = re.compile(r"\w+=")
_EXECUTED_VARIABLE = re.compile(
    r"(?:--[\w-]+=|-\w)?"  # an option that sets it
    r"((?:LD|DYLD|BASH|LUA|R|JULIA|GUILE)_\w+|(?:PYTHON|PERL|RUBY|PHP|AWK|TCL)\w+|\w*(?:OPT|OPTS|OPTIONS)"
    r"|\w+_COMMAND|\w*(?:EDITOR|PAGER|SHELL)|ENV|PATH|(?:CLASS|GCONV_|NODE_|F)PATH|ZDOTDIR|(?:XDG_CONFIG_)?HOME|PS4)="
)
"""An environment variable that makes programs execute what it names or contains."""
_INPUT = re.compile(r"(?:-\w+|--[\w-]+=)?(?:-|(?:.*/)?(?:dev/stdin|fd/0))", re.DOTALL)
_VERSION = re.compile(r"(?:[-._]?\d|:).*", re.DOTALL)
"""Also the tag of an image."""
_SUFFIX = re.compile(r"[-._:\d].*", re.DOTALL)


class Danger(NamedTuple):
    """What a known program could execute."""

    program: str
    is_wrapper: bool
    argument: int | None
    """The index of the first argument whose value could be executed."""
    reads_input: bool
    """Whether it could execute its standard input."""
    variable: str | None = None
    """The environment variable that has the value."""


def program_name(argument: str) -> str:
    """Return the name of a program, without its folder and what follows: `python` of `/usr/bin/python3.12-dbg`.

    A program in a folder of the project only loses its version: `./time-tests` is not `time`.
    """
    is_of_project = "/" in argument and not argument.startswith("/")
    return (_VERSION if is_of_project else _SUFFIX).sub("", PurePath(argument).name, count=1)


def prefix_of(argument: str) -> str | None:
    """Return the literal text before the first value of an argument; None if it has no value."""
    try:
        parts = parts_of(argument)
    except TemplateError:
        return None  # reported already
    if not any(isinstance(part, Reference) for part in parts):
        return None
    return parts[0] if isinstance(parts[0], str) else ""


def dangers(run: Sequence[str]) -> Iterator[Danger]:
    """Yield what each known program that a command starts could execute."""
    waiting, seen = [0], {0}
    while waiting:
        start = waiting.pop()
        name = program_name(run[start])
        started: list[int] = []
        if name in CODE_TAKERS:
            yield Danger(name, False, _first_value(run, start + 1), _executes_input(name, run, start))
        elif name in _CODE_OPTIONS:
            yield _of_interpreter(name, run, start)
        elif name in WRAPPERS:
            found, started = _of_starter(name, run, start, WRAPPERS[name])
            yield from found
        elif name in LAUNCHERS:
            markers, own_count = LAUNCHERS[name]
            for marker in (index for index in range(start + 1, len(run)) if run[index] in markers):
                found, behind = _of_starter(name, run, marker, own_count)
                yield from found
                started += behind
        waiting += [index for index in started if index not in seen]
        seen.update(started)


def _executes_input(name: str, run: Sequence[str], start: int) -> bool:
    """Whether a program whose arguments are code could execute its input, too."""
    if name == "sed":
        return any(map(_is_input, run[start + 1 :]))
    return not _has_command(name, run, start)


def _is_input(argument: str) -> bool:
    """Whether an argument, or an option together with its value, names the standard input."""
    return _INPUT.fullmatch(posixpath.normpath(argument)) is not None


def _has_command(name: str, run: Sequence[str], start: int) -> bool:
    """Whether `ssh` certainly has a command, whose input is the standard input."""
    return name == "ssh" and len(run) > start + 2 and not any(it.startswith("-") for it in run[start + 1 : start + 3])


def _first_value(run: Sequence[str], begin: int) -> int | None:
    return next((index for index in range(begin, len(run)) if prefix_of(run[index]) is not None), None)


def _of_interpreter(name: str, run: Sequence[str], start: int) -> Danger:
    """Values may follow the script, which is literal: a file, or the argument of an option such as `-c`.

    A text behind an option that is not known to take no value may be that value, so it is no script.
    """
    letters, is_shell = _CODE_OPTIONS[name], name in SHELLS
    reads_input = has_code = False
    expects_code, may_be_value = False, False
    index = start + 1
    while index < len(run):
        argument, index = run[index], index + 1
        if prefix_of(argument) is not None:
            is_behind_code = has_code and not may_be_value and not argument.startswith("-")
            return Danger(name, False, None if is_behind_code else index - 1, reads_input or not has_code)
        is_data = has_code and not expects_code and (argument == "-" or not argument.startswith("-"))
        reads_input = reads_input or (_is_input(argument) and not is_data)
        if argument == "--" or (argument == "-" and is_shell):
            may_be_value = False
        elif argument == "-" or not argument.startswith(("-", "+")):
            if expects_code or not may_be_value:
                has_code = True
                if not expects_code or name in _ONE_SCRIPT:
                    return Danger(name, False, None, reads_input)
            expects_code = may_be_value = False
        else:
            cluster = "" if argument.startswith("--") else argument[1:]
            reads_input = reads_input or "i" in cluster or (is_shell and "s" in cluster)
            is_code = any(it in cluster for it in letters) if is_shell else cluster[-1:] in (*letters,)
            if is_code or argument in _LONG_CODE_OPTIONS:
                expects_code = True
            may_be_value = not cluster or not set(cluster) <= set(_FLAGS.get(name, ""))
            if is_shell and ("o" in cluster or "O" in cluster):  # its value is no code
                if index < len(run) and prefix_of(run[index]) is not None:
                    return Danger(name, False, index, True)
                index, may_be_value = index + 1, False
    return Danger(name, False, None, reads_input or not has_code)


def _of_starter(name: str, run: Sequence[str], start: int, own_count: int) -> tuple[list[Danger], list[int]]:
    """Values may follow the program, which is literal. Return also where a program may be.

    A text behind an option may be the value of the option, so it is not certain that it is the program.
    `start`: where the name of a wrapper is, or the argument of a launcher behind which the program is.
    """
    found: list[Danger] = []
    candidates: list[int] = []
    is_wrapper = reads_input = name in WRAPPERS
    texts = certain = 0
    may_be_value, has_options = False, True
    for index, argument in enumerate(run[start + 1 :], start + 1):
        prefix = prefix_of(argument)
        if prefix and (variable := _EXECUTED_VARIABLE.match(prefix)):
            found.append(Danger(name, True, index, False, variable[1]))
        if (not is_wrapper or name in ("env", "sudo", "doas")) and _ASSIGNMENT.match(prefix or argument):
            may_be_value = False
        elif prefix is not None and (is_wrapper or (own_count == 0 and index == start + 1)):
            return [*found, Danger(name, True, index, True)], candidates
        elif has_options and argument.startswith(("-", "+")) and (is_wrapper or argument != "-"):
            has_options, may_be_value = argument != "--", argument != "--" and "=" not in argument
        else:
            if prefix is None and (texts >= own_count or _is_interpreter(argument)):
                candidates.append(index)
            texts += 1
            certain += not may_be_value
            may_be_value = False
            if certain > own_count:
                reads_input = name == "xargs" and any(_is_known(run[it]) for it in candidates)
                break
    reads_input = reads_input or (own_count == 0 and any(_is_input(run[it]) for it in candidates))
    return [*found, Danger(name, True, None, reads_input)], candidates


def _is_interpreter(image: str) -> bool:
    """Whether an image, or the file of a program, has the name of an interpreter, with or without a version."""
    return _VERSION.sub("", PurePath(image).name, count=1) in _CODE_OPTIONS


def _is_known(argument: str) -> bool:
    return any(program_name(argument) in known for known in (_CODE_OPTIONS, WRAPPERS, LAUNCHERS, CODE_TAKERS))
