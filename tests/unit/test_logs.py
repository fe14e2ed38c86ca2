"""Log lines that cannot be written."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm_runner.diagnostics.logs import LogSink
from fsm_runner.diagnostics.redaction import Redactor


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            continue


def test_lost_lines_are_counted_in_the_next_line(pipe: tuple[int, int], tmp_path: Path) -> None:
    reader, writer = pipe
    sink = LogSink(writer, Redactor())
    os.close(reader)
    sink.write("first\n")
    sink.write("second\n")
    with (tmp_path / "log").open("wb") as file:
        os.dup2(file.fileno(), writer)
        sink.write("third\n")
        sink.write("fourth\n")
    said = "… 2 lines of this log could not be written: Broken pipe …\n"
    assert (tmp_path / "log").read_text() == f"{said}third\nfourth\n"


def test_an_incomplete_line_ends_before_the_next(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    sink = LogSink(writer, Redactor())
    long_line = "x" * 1_000_000 + "\n"
    sink.write(long_line)
    taken = os.read(reader, len(long_line))
    sink.write("after\n")
    why = os.strerror(errno.EAGAIN)
    assert taken == b"x" * len(taken)
    assert os.read(reader, 1000).decode() == f"\n… 1 lines of this log could not be written: {why} …\nafter\n"


def test_lone_surrogates_are_escaped(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    LogSink(writer, Redactor()).write("file \udcff\n")
    assert os.read(reader, 100) == b"file \\udcff\n"
