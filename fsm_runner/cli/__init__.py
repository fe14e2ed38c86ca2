"""The command line. Commands import what they need when they run, so that `--help` stays quick."""

import sys

from fsm_runner.cli.app import app
from fsm_runner.errors import EXIT_ABORTED, FsmRunnerError


def main() -> None:
    """Entry point of `fsm-runner`. Exit codes are those of `fsm_runner/errors.py`."""
    try:
        app()
    except FsmRunnerError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the log may not be set up yet
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_ABORTED)
