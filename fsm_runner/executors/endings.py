"""What the end of an executor's process means, whichever executor it was."""

import signal

from fsm_runner.errors import STDOUT_MARK
from fsm_runner.process.child import Exit
from fsm_runner.process.reaping import signal_name

STDOUT_TAIL_CHARS = 2_000
"""How much of stdout's end is in a failure whose stderr is not empty."""

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
    said = f"{stderr}\n{STDOUT_MARK}\n{_tail(stdout)}" if stderr and stdout else stderr or stdout
    separator = "\n" if "\n" in said else " "
    return f"{said}{separator}({_how(ended, when)})"


def _how(ended: Exit, when: str) -> str:
    if ended.signal is not None:
        cause = ", perhaps for lack of memory" if ended.signal == "SIGKILL" else ""
        return f"killed by {ended.signal}{when}, exit code {ended.code}{cause}"
    number = ended.code - _SHELL_CODE_OF_A_SIGNAL
    shell = f", which a shell gives for {signal_name(number)}" if number in signal.valid_signals() else ""
    return f"exit code {ended.code}{when}{shell}"


def _tail(text: str) -> str:
    if len(text) <= STDOUT_TAIL_CHARS:
        return text
    return f"… {len(text) - STDOUT_TAIL_CHARS:,} characters left out …\n{text[-STDOUT_TAIL_CHARS:]}"
