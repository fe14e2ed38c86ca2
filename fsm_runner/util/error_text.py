"""The text of a failed process: its layout, its limit, and the one line of it that says most."""

import re

from fsm_runner.util.text import without_middle

ERROR_LIMIT_CHARS = 16_000
"""The longest error that is reported or written to the journal. A result event carries a command's whole output."""

STDERR_MARK, STDOUT_MARK = "--- stderr ---", "--- stdout ---"
"""The line above a process's output, except at the beginning of the text."""
_EXIT = re.compile(r"\((?:exit code|killed by) .*\)")
"""The last line of the text, which says how the process ended."""
_TRACEBACK = re.compile(r"(?<!: )Traceback \(most recent call last\)")
"""A print without a line break, or the mark of an exception group, can precede it. After a colon it belongs to a
reason of the runner, which says more: "limit of 50 open files in a process reached: Traceback …"."""
_SOURCE_POSITION = re.compile(r'\s*File ".*", line \d+|\S.*:\d+')
"""The first line of an error in a program's source, in Python and in Node.js. The source line and the error follow."""
_ERROR = re.compile(r"(?:Uncaught )?(?:[A-Za-z_][\w.]*)?(?:Error|Exception)(?: \[\w+\])?(?:: .*)?")


def limited_error(error: str) -> str:
    """Return the error without its middle if it is longer than `ERROR_LIMIT_CHARS`."""
    return without_middle(error, ERROR_LIMIT_CHARS)


def headline(error: str) -> str:
    """Return the one line of an error that says most, followed by how the process ended.

    That is the last line of a Python traceback, the error below a position in a program's source, else the first line.
    """
    lines = error.strip().splitlines() or [""]
    exit_text = f" {lines.pop()}" if len(lines) > 1 and _EXIT.fullmatch(lines[-1]) else ""
    if STDOUT_MARK in lines[1:]:  # a traceback ends above it
        lines = lines[: lines.index(STDOUT_MARK, 1)]
    main_line = lines[0]
    if _TRACEBACK.search(main_line):
        main_line = lines[-1]
    elif _SOURCE_POSITION.fullmatch(main_line):
        main_line = next(filter(_ERROR.fullmatch, lines[1:]), main_line)
    return main_line + exit_text
