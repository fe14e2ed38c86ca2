"""The text of an executor's failure: its output, and how it ended."""

import pytest

from fsm_runner.diagnostics.redaction import MASK, Redactor
from fsm_runner.executors.exit_text import TAIL_CHARS, failure_text, with_output
from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.child.child import Exit

SECRET = "a-secret-of-some-length"


def ended(code: int, stderr: str = "", stdout: str = "", signal: str | None = None) -> Exit:
    captures = []
    for text in (stdout, stderr):
        capture = BoundedCapture(100_000)
        capture.add(text.encode())
        captures.append(capture)
    return Exit(code=code, signal=signal, stdout=captures[0], stderr=captures[1])


@pytest.mark.parametrize(
    ("exit_", "text"),
    [
        (ended(3), "the command ended with exit code 3"),
        (ended(3, "no\n"), "no (exit code 3)"),
        (ended(3, "", "no\nmore\n"), "no\nmore\n(exit code 3)"),
        (ended(3, "a warning", "no"), "a warning\n--- stdout ---\nno\n(exit code 3)"),
        (ended(139, "10%", signal="SIGSEGV"), "10% (killed by SIGSEGV, exit code 139)"),
        (ended(137, "10%", signal="SIGKILL"), "10% (killed by SIGKILL, exit code 137, perhaps for lack of memory)"),
        (ended(137, signal="SIGKILL"), "the command was killed by SIGKILL, exit code 137, perhaps for lack of memory"),
        (ended(152, signal="SIGXCPU"), "the command was killed by SIGXCPU, exit code 152"),
        (ended(143, "10%"), "10% (exit code 143, which a shell gives for SIGTERM)"),
        (ended(143), "the command ended with exit code 143, which a shell gives for SIGTERM"),
        (ended(137, "Killed"), "Killed (exit code 137, which a shell gives for SIGKILL, perhaps for lack of memory)"),
        (ended(255, "10%"), "10% (exit code 255)"),
    ],
)
def test_a_failure_has_the_output_and_how_the_process_ended(exit_: Exit, text: str) -> None:
    assert failure_text(exit_) == text


def test_a_failure_names_the_process_and_when_it_ended() -> None:
    assert failure_text(ended(7), "the executor", "between two turns") == (
        "the executor ended with exit code 7 between two turns"
    )
    assert failure_text(ended(7, "no"), "the executor", "between two turns") == "no (exit code 7 between two turns)"
    assert failure_text(ended(137, signal="SIGKILL"), "the executor", "between two turns") == (
        "the executor was killed by SIGKILL between two turns, exit code 137, perhaps for lack of memory"
    )


def test_only_the_end_of_a_long_stdout_is_added_and_no_secret_is_cut_in_two() -> None:
    stdout = f"{'x' * 50}{SECRET}{'y' * (TAIL_CHARS - 10)}"
    hidden = Redactor.of_variables({"MY_TOKEN": SECRET}).text(failure_text(ended(1, "a warning", stdout)))
    beginning = "a warning\n--- stdout ---\n… 63 characters left out …\n"
    assert hidden == f"{beginning}{MASK}{'y' * (TAIL_CHARS - 10)}\n(exit code 1)"


def test_the_output_of_a_running_process_is_added() -> None:
    exit_ = ended(0, "waiting for a lock\n", "progress 10%")
    assert with_output("not done", exit_.stdout, exit_.stderr) == (
        "not done\n--- stderr ---\nwaiting for a lock\n--- stdout ---\nprogress 10%"
    )
    assert with_output("not done", ended(0).stdout, ended(0).stderr) == "not done"
