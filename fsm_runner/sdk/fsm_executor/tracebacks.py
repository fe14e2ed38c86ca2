"""Formats exceptions of the executor's own code as the error of a run."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from pathlib import Path

_SDK_FOLDER = Path((lambda: None).__code__.co_filename).parent
"""The path in tracebacks. `__file__` can be another path to the same folder."""
_INTERNAL_FOLDERS = (_SDK_FOLDER, Path(os.__file__).parent / "asyncio")


def authors_traceback(error: BaseException) -> str:
    """Return the traceback without the frames of this package and of asyncio.

    An exception that has only such frames keeps them.
    """
    report = traceback.TracebackException.from_exception(error)
    for each in _with_related(report, set()):
        each.stack[:] = [
            frame for frame in each.stack if Path(frame.filename).parent not in _INTERNAL_FOLDERS
        ] or each.stack[:]
    return "".join(report.format())


def summary(error: BaseException) -> str:
    """Return the exception on one line; for an exception group, including its members."""
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    members = getattr(error, "exceptions", None)
    if not isinstance(members, tuple):
        return text
    return f"{text}: {'; '.join(summary(each) for each in members)}"


def _with_related(
    report: traceback.TracebackException | None, seen: set[int]
) -> Iterator[traceback.TracebackException]:
    """Yield the exception, its causes, and the members of an exception group."""
    if report is None or id(report) in seen:
        return
    seen.add(id(report))
    yield report
    for other in (report.__cause__, report.__context__, *(getattr(report, "exceptions", None) or ())):
        yield from _with_related(other, seen)
