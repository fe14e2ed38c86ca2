"""The log of a real process: streams that cannot be written, and text of other programs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
logging.getLogger("library").info("of no interest")
"""


FOREIGN = """
from loguru import logger
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.diagnostics.redaction import Redactor
configure_logs(Redactor(), verbose=False)
logger.info("{}: claimed", "run_1\\n2026-01-01T00:00:00.000+0000 INFO    all is well\\r\\x1b[2J\\u202e\\x00")
logger.info("{}: claimed", "x" * 1_000_000)
"""


FULL_DEVICE = Path("/dev/full")


def _no_place_for_a_log(kind: str) -> int:
    if kind == "full" and FULL_DEVICE.exists():
        return os.open(FULL_DEVICE, os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    return writer


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
    assert "of no interest" not in shown
    assert ("library: a caller said ***\\x1b[31m" in shown) == verbose
