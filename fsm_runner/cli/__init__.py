"""The command line. Commands import what they need when they run, so that `--help` stays quick."""

import os
import sys

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


def _say(error: Exception) -> None:
    try:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the log may not be set up yet
    except OSError:  # a full disk behind it, or nobody who reads; the exit code says enough
        _drop(_STDERR_DESCRIPTOR)


def _drop(descriptor: int) -> None:
    """The interpreter writes at its exit what a stream still holds, and would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
