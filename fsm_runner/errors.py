"""Errors that are meant for the person at the terminal, and the exit codes that go with them."""

import re

EXIT_OK = 0
EXIT_FAILED = 1
"""What was asked for was tried and failed: a run, a check, a registration."""
EXIT_USAGE = 2
"""What was asked for cannot be tried: bad flags, files, profiles, parameters."""
EXIT_ABORTED = 130
"""A third signal: the runner left without waiting for anything."""


class FsmRunnerError(Exception):
    """Something that the user can act on. Its text is the whole message; no traceback is shown."""

    exit_code = EXIT_FAILED


class UsageError(FsmRunnerError):
    """Bad input: the text names the file, field or flag and says what to do."""

    exit_code = EXIT_USAGE


STDERR_MARK, STDOUT_MARK = "--- stderr ---", "--- stdout ---"
"""The lines above what a process wrote, where that is not the beginning of an error."""
_ENDING = re.compile(r"\((?:exit code|killed by) .*\)")
"""The last line of such an error, which says how the process ended."""
_TRACEBACK = re.compile(r"(?<!: )Traceback \(most recent call last\)")
"""A print without a line break, or the mark of an exception group, can precede it. Behind a colon it belongs to a
reason of the runner, which says more: "limit of 50 open files in a process reached: Traceback …"."""
_PLACE = re.compile(r'\s*File ".*", line \d+|\S.*:\d+')
"""The first line of an error in the source of a program, in Python and in Node.js. The source line and the error
follow."""
_ERROR = re.compile(r"(?:Uncaught )?(?:[A-Za-z_][\w.]*)?(?:Error|Exception)(?: \[\w+\])?(?:: .*)?")


def headline(text: str) -> str:
    """The one line of an error that says most, with how the process ended.

    That is the last line of a Python traceback, the error below a place in a program's source, else the first line.
    """
    lines = text.strip().splitlines() or [""]
    ending = f" {lines.pop()}" if len(lines) > 1 and _ENDING.fullmatch(lines[-1]) else ""
    if STDOUT_MARK in lines[1:]:  # a traceback ends above it
        lines = lines[: lines.index(STDOUT_MARK, 1)]
    return _telling_line(lines) + ending


def _telling_line(lines: list[str]) -> str:
    if _TRACEBACK.search(lines[0]):
        return lines[-1]
    if _PLACE.fullmatch(lines[0]):
        return next(filter(_ERROR.fullmatch, lines[1:]), lines[0])
    return lines[0]


SHOWN_CHARS = 300


def shown(text: str) -> str:
    """What another program wrote, for a message: its beginning, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARS else line[:SHOWN_CHARS] + "…"


LEFT_OUT = re.compile(r"\n?… [0-9,]+ (?:bytes|characters) left out …\n")
"""What stands where the middle of a text was left out."""

ERROR_LIMIT_CHARS = 16_000
"""The longest error text that is reported or written down; what a command wrote in full is in its result event."""


def shortened(error: str) -> str:
    """At most about `ERROR_LIMIT_CHARS` of it: the beginning and the end."""
    if len(error) <= ERROR_LIMIT_CHARS:
        return error
    half = ERROR_LIMIT_CHARS // 2
    return f"{error[:half]}\n… {len(error) - 2 * half:,} characters left out …\n{error[-half:]}"
