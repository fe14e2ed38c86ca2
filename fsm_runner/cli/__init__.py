"""The command line. Commands import what they need when they run, so that `--help` stays quick."""

import os
import sys
import traceback

from fsm_runner.cli.app import app
from fsm_runner.errors import EXIT_ABORTED, EXIT_FAILED, FsmRunnerError

_STDOUT_DESCRIPTOR = 1
_STDERR_DESCRIPTOR = 2


def main() -> None:
    """Entry point of `fsm-runner`. Exit codes are those of `fsm_runner/errors.py`."""
    try:
        app()
    except FsmRunnerError as error:
        _say(error)
        sys.exit(error.exit_code)
    except OSError as fault:
        # What the system refuses and no command has words for, such as a full disk behind standard output.
        _say(fault)
        _drop(_STDOUT_DESCRIPTOR)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_ABORTED)
    except Exception:  # noqa: BLE001 - the interpreter would show it too, but with the secrets that it may quote
        _say_defect(traceback.format_exc())
        sys.exit(EXIT_FAILED)


def _say(error: Exception) -> None:
    _print_without_secrets(f"error: {error}")


def _say_defect(trace: str) -> None:
    _print_without_secrets(f"{trace}error: a defect of fsm-runner itself; please report it with the lines above")


def _print_without_secrets(text: str) -> None:
    from fsm_runner.redaction import Redactor
    from fsm_runner.terminal import printable

    plain = printable(Redactor.of_variables(os.environ).text(text))
    try:
        print(plain, file=sys.stderr, flush=True)  # noqa: T201 - no log yet
    except OSError:  # a full disk behind it, or nobody who reads; the exit code says enough
        _drop(_STDERR_DESCRIPTOR)


def _drop(descriptor: int) -> None:
    """The interpreter writes at its exit what a stream still holds, and would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
