"""What the end of an executor's process means, whichever executor it was."""

import signal

from fsm_runner.errors import STDERR_MARK, STDOUT_MARK
from fsm_runner.process.capture import BoundedCapture
from fsm_runner.process.child import Exit
from fsm_runner.process.reaping import signal_name

TAIL_CHARS = 2_000
"""How much of an output's end is added to a failure that begins with something else."""

_SHELL_CODE_OF_A_SIGNAL = 128


def failure_text(ended: Exit, what: str = "the command", when: str = "") -> str:
    """The limit that `what` exceeded, else its output and how it ended.

    The output is stderr, followed by the end of stdout, or stdout alone (protocol.md, section 2). A warning on stderr
    does not hide an error on stdout that way. `when`: in words that can follow "it ended".
    """
    if ended.exceeded is not None:
        return ended.exceeded
    when = when and f" {when}"
    stderr, stdout = ended.stderr.text().strip(), ended.stdout.text().strip()
    if not stderr and not stdout:
        return f"{what} ended with exit code {ended.code}{when}"
    said = f"{stderr}{_section(STDOUT_MARK, stdout)}" if stderr else stdout
    separator = "\n" if "\n" in said else " "
    return f"{said}{separator}({_how(ended, when)})"


def with_output(reason: str, stdout: BoundedCapture, stderr: BoundedCapture) -> str:
    """A failure that is not the end of the process, with the ends of what the process has written so far."""
    return f"{reason}{_section(STDERR_MARK, stderr.text().strip())}{_section(STDOUT_MARK, stdout.text().strip())}"


def _section(mark: str, text: str) -> str:
    return f"\n{mark}\n{_tail(text)}" if text else ""


def _how(ended: Exit, when: str) -> str:
    if ended.signal is not None:
        cause = ", perhaps for lack of memory" if ended.signal == "SIGKILL" else ""
        return f"killed by {ended.signal}{when}, exit code {ended.code}{cause}"
    number = ended.code - _SHELL_CODE_OF_A_SIGNAL
    shell = f", which a shell gives for {signal_name(number)}" if number in signal.valid_signals() else ""
    return f"exit code {ended.code}{when}{shell}"


def _tail(text: str) -> str:
    if len(text) <= TAIL_CHARS:
        return text
    return f"… {len(text) - TAIL_CHARS:,} characters left out …\n{text[-TAIL_CHARS:]}"
