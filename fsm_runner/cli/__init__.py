"""The command line. Commands import what they need when they run, so that `--help` stays quick."""

import os
import sys

from fsm_runner.cli.app import app
from fsm_runner.errors import EXIT_ABORTED, EXIT_FAILED, FsmRunnerError

_STDOUT_DESCRIPTOR = 1


def main() -> None:
    """Entry point of `fsm-runner`. Exit codes are those of `fsm_runner/errors.py`."""
    try:
        app()
    except FsmRunnerError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the log may not be set up yet
        sys.exit(error.exit_code)
    except OSError as fault:
        # What the system refuses and no command has words for, such as a full disk behind standard output.
        print(f"error: {fault}", file=sys.stderr)  # noqa: T201 - as above
        # The interpreter writes at its exit what standard output still holds, and would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT_DESCRIPTOR)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_ABORTED)
