"""Runs the command that the arguments name, and turns its end into an exit code."""

import os
import sys
import traceback

from fsm_runner.cli.app import app
from fsm_runner.errors import EXIT_ABORTED, EXIT_FAILED, FsmRunnerError
from fsm_runner.process.inherited import normalize_signals, normalize_streams

_STDOUT_DESCRIPTOR = 1


def run_command() -> None:
    """Run the command that the arguments of this process name. Raises `SystemExit` with the exit code."""
    normalize_streams()
    normalize_signals()
    try:
        app()
    except FsmRunnerError as error:
        _say(error)
        sys.exit(error.exit_code)
    except OSError as fault:
        # What the system refuses and no command has words for, such as a full disk behind standard output.
        _say(fault if fault.filename is None else f"{fault.filename}: {fault.strerror}")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_ABORTED)
    except Exception:  # noqa: BLE001 - the interpreter would show it too, but with the secrets that it may quote
        _say_defect(traceback.format_exc())
        sys.exit(EXIT_FAILED)
    finally:
        _drop_unwritten()


def _say(error: object) -> None:
    _print_without_secrets(f"error: {error}")


def _say_defect(trace: str) -> None:
    _print_without_secrets(f"{trace}error: a defect of fsm-runner itself; please report it with the lines above")


def _print_without_secrets(text: str) -> None:
    from fsm_runner.diagnostics.redaction import Redactor
    from fsm_runner.util.text import escaped

    plain = escaped(Redactor.of_variables(os.environ).text(text))
    print(plain, file=sys.stderr, flush=True)  # noqa: T201 - no log yet


def _drop_unwritten() -> None:
    """Drop output that standard output has not taken. The interpreter would try to write it at its exit, and fail with
    an exit code of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT_DESCRIPTOR)
