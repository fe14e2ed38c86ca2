"""Explains why a file cannot be executed, without executing it."""

import os
import stat
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

_INTERPRETER_LINE_BYTES = 256
"""The length of a script's beginning in which the kernel looks for the `#!` line."""
_NOEXEC = getattr(os, "ST_NOEXEC", 0)
"""0 on systems that do not report if a mount permits execution (macOS)."""


def file_defect(file: Path) -> str | None:
    """Return what prevents the execution of the file or of the interpreter in its first line, if anything is found."""
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return f"{file} does not exist"
    except OSError as unreadable:
        return f"{file}: {unreadable.strerror}"
    if not stat.S_ISREG(mode):  # reading a named pipe would block
        return f"{file} is {'a directory' if stat.S_ISDIR(mode) else 'not a regular file'}"
    if (reason := not_executable(file)) is not None:
        return f"{file} {reason}"
    line = b""
    with suppress(OSError), file.open("rb") as script:
        line = script.read(_INTERPRETER_LINE_BYTES).split(b"\n")[0]
    # A Windows editor may have put an encoding mark before the `#!`, which the kernel does not skip.
    if line.startswith(BOM_UTF8 + b"#!"):
        return (
            f"{file} begins with a byte order mark (UTF-8 BOM), so the system does not see its `#!` line: save it as "
            rf"UTF-8 without a BOM, or run `sed -i '1s/^\xEF\xBB\xBF//' {file}`"
        )
    if line.startswith((BOM_UTF16_LE + b"#\0!\0", BOM_UTF16_BE + b"\0#\0!")):
        return f"{file} is UTF-16 text, so the system does not see its `#!` line: save it as UTF-8 without a BOM"
    words = line.removeprefix(b"#!").strip(b" \t").replace(b"\t", b" ").split(b" ")
    interpreter = os.fsdecode(words[0])
    if not line.startswith(b"#!") or not interpreter:
        return None
    if interpreter.endswith("\r"):
        return f"{file} has Windows line endings (CRLF) in its `#!` line: convert it to LF"
    shown = f"the interpreter in the first line of {file}, {interpreter},"
    if not os.access(interpreter, os.F_OK):
        return f"{shown} does not exist"
    if (reason := not_executable(Path(interpreter))) is not None:
        return f"{shown} {reason}"
    return None


def not_executable(file: Path) -> str | None:
    """Return why this process may not execute an existing file and what to do, as words that follow the file name.

    None if it may.
    """
    if os.access(file, os.X_OK):
        return None
    if (mount := noexec_mount(file)) is not None:
        return (
            f"is on {mount}, which is mounted with `noexec`, so no program on it can be started: move the file, "
            f"or mount {mount} with `exec`"
        )
    return f"is not executable: run `chmod +x {file}`"


def noexec_mount(file: Path) -> Path | None:
    """Return the mount point of the file's file system if it is mounted with `noexec`."""
    try:
        forbidden = os.statvfs(file).f_flag & _NOEXEC
    except OSError:
        return None
    if not forbidden:
        return None
    real = file.resolve()
    device = real.stat().st_dev
    inside = takewhile(
        lambda place: place.stat().st_dev == device and os.statvfs(place).f_flag & _NOEXEC, (real, *real.parents)
    )
    return list(inside)[-1]
