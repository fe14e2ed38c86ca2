"""Runs a command, and turns its errors into messages and exit codes."""

import os
import sys
import traceback

from fsm_runner.cli.app import app
from fsm_runner.errors import EXIT_ABORTED, EXIT_FAILED, FsmRunnerError
from fsm_runner.process.inherited import normalize_signals, normalize_streams


def run_command() -> None:
    """Run the command that the arguments of this process name. Raises `SystemExit` with the exit code."""
    normalize_streams()
    normalize_signals()
    try:
        app()
    except FsmRunnerError as error:
        _print_error(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        # An error that no command handles, such as a full disk behind standard output.
        _print_error(f"error: {error if error.filename is None else f'{error.filename}: {error.strerror}'}")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_ABORTED)
    except Exception:  # noqa: BLE001 - the interpreter would print the traceback with its secrets
        _print_error(f"{traceback.format_exc()}error: a bug in fsm-runner; please report it with the lines above")
        sys.exit(EXIT_FAILED)
    finally:
        _discard_unwritten()


def _print_error(text: str) -> None:
    """Print text on stderr without the secrets in it."""
    from fsm_runner.diagnostics.redaction import Redactor
    from fsm_runner.util.text import escaped

    plain = escaped(Redactor.of_variables(os.environ).text(text))
    print(plain, file=sys.stderr, flush=True)  # noqa: T201 - no log yet


def _discard_unwritten() -> None:
    """Discard output that cannot be written. The interpreter would try again at its exit, and change the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
