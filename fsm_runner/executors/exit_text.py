"""Explains how an executor's process ended, for the error of its run."""

import signal

from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.child.child import Exit
from fsm_runner.process.reaping import SIGNAL_CODE_BASE, signal_name
from fsm_runner.util.error_text import STDERR_MARK, STDOUT_MARK

TAIL_CHARS = 2_000
"""The most of the end of stdout or stderr that is added to an error which begins with other text."""


def failure_text(ended: Exit, what: str = "the command", when: str = "") -> str:
    """Return the message about the limit that `what` exceeded, or its output and how it ended.

    The output is stderr and the end of stdout, so that a warning on stderr does not hide an error on stdout. If stderr
    is empty, it is all of stdout (protocol.md, section 2). `when`: words that can follow "it ended".
    """
    if ended.exceeded is not None:
        return ended.exceeded
    how = _how_it_ended(ended, when)
    stderr, stdout = ended.stderr.text().strip(), ended.stdout.text().strip()
    if not stderr and not stdout:
        return f"{what} {'ended with' if ended.signal is None else 'was'} {how}"
    output = f"{stderr}{_section(STDOUT_MARK, stdout)}" if stderr else stdout
    separator = "\n" if "\n" in output else " "
    return f"{output}{separator}({how})"


def _how_it_ended(ended: Exit, when: str) -> str:
    """Return words such as "killed by SIGSEGV, exit code 139".

    A shell whose child was killed by a signal exits with a code that stands for the signal. A program may also choose
    such a code itself.
    """
    when = when and f" {when}"
    if ended.signal is not None:
        name, how = ended.signal, f"killed by {ended.signal}{when}, exit code {ended.code}"
    elif (number := ended.code - SIGNAL_CODE_BASE) in signal.valid_signals():
        name = signal_name(number)
        how = f"exit code {ended.code}{when}, which a shell gives for {name}"
    else:
        return f"exit code {ended.code}{when}"
    # The kernel sends SIGKILL when memory runs out, and the process has no chance to write a message.
    return f"{how}, perhaps for lack of memory" if name == "SIGKILL" else how


def with_output(reason: str, stdout: BoundedCapture, stderr: BoundedCapture) -> str:
    """Return the reason with the end of the stderr and stdout so far, for a failure before the process ended."""
    return f"{reason}{_section(STDERR_MARK, stderr.text().strip())}{_section(STDOUT_MARK, stdout.text().strip())}"


def _section(mark: str, text: str) -> str:
    left_out = len(text) - TAIL_CHARS
    start = f"… {left_out:,} characters left out …\n" if left_out > 0 else ""
    return f"\n{mark}\n{start}{text[-TAIL_CHARS:]}" if text else ""
