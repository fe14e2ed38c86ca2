"""Log lines that cannot be written, and text of other programs in the log."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm_runner.diagnostics.logs import LogSink
from fsm_runner.diagnostics.redaction import Redactor

FULL_DEVICE = Path("/dev/full")

LOGS_AND_EXITS = """
import sys
from loguru import logger
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.process.inherited import normalize_streams
from fsm_runner.diagnostics.redaction import Redactor
normalize_streams()
configure_logs(Redactor(), verbose=False)
for number in range(3):
    logger.info("line {}", number)
logger.opt(exception=ValueError("a fault")).error("it broke")
print("still here")
sys.exit(7)
"""


LIBRARIES_LOG = """
import logging
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.diagnostics.redaction import Redactor
configure_logs(Redactor(["s3cr3t-value"]), verbose={verbose})
logging.getLogger("library").warning("a caller said %s", "s3cr3t-value\\x1b[31m")
try:
    raise ValueError("s3cr3t-value")
except ValueError:
    logging.getLogger("library").exception("it broke")
logging.getLogger("library").info("nobody wants to know")
"""


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


@pytest.mark.parametrize("stderr", ["full", "closed by its reader", "closed"])
def test_an_unwritable_log_does_not_change_the_program(stderr: str) -> None:
    descriptor = _no_place_for_a_log(stderr)
    command = [sys.executable, "-c", LOGS_AND_EXITS]
    if stderr == "closed":
        command = ["/bin/sh", "-c", '"$@" 2>&-', "sh", *command]
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=descriptor, timeout=60)
    finally:
        os.close(descriptor)
    assert (ended.returncode, ended.stdout) == (7, b"still here\n")


def test_unwritable_text_is_not_retried_at_exit(tmp_path: Path) -> None:
    """Python's own stream would hold a line back, and write it once there is room."""
    log = tmp_path / "log"
    program = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
from loguru import logger
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.diagnostics.redaction import Redactor
configure_logs(Redactor(), verbose=False)
logger.info("lost")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
logger.info("kept")
"""
    with log.open("wb") as file:
        subprocess.run([sys.executable, "-c", program], stderr=file, timeout=60, check=True)
    first, second = log.read_text().splitlines()
    assert first == "… 1 lines of this log could not be written: File too large …"
    assert second.endswith("kept")


def _no_place_for_a_log(kind: str) -> int:
    if kind == "full" and FULL_DEVICE.exists():
        return os.open(FULL_DEVICE, os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    return writer


FOREIGN = """
from loguru import logger
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.diagnostics.redaction import Redactor
configure_logs(Redactor(), verbose=False)
logger.info("{}: claimed", "run_1\\n2026-01-01T00:00:00.000+0000 INFO    all is well\\r\\x1b[2J\\u202e\\x00")
logger.info("{}: claimed", "x" * 1_000_000)
"""


def test_text_of_other_programs_cannot_imitate_a_message_or_control_a_terminal() -> None:
    ended = subprocess.run([sys.executable, "-c", FOREIGN], capture_output=True, text=True, check=True)
    first, forged, long = ended.stderr.splitlines()
    assert first.endswith("INFO    run_1")
    assert forged == r"    2026-01-01T00:00:00.000+0000 INFO    all is well\r\x1b[2J\u202e\x00: claimed"
    assert long.endswith("xxx… (992,009 more characters)")


@pytest.mark.parametrize("verbose", [False, True])
def test_messages_of_libraries_are_redacted_and_escaped(verbose: bool) -> None:
    program = LIBRARIES_LOG.format(verbose=verbose)
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    assert "library: it broke" in shown
    assert "ValueError: ***" in shown
    assert "s3cr3t-value" not in shown
    assert "nobody" not in shown
    assert ("library: a caller said ***\\x1b[31m" in shown) == verbose
