"""The command line. Commands import their modules when they run, to keep `--help` fast."""

import signal
import sys

from fsm_runner.process.init import fork_if_process_1


def main() -> None:
    """Entry point of `fsm-runner`. Exit codes are those of `fsm_runner/errors.py`."""
    fork_if_process_1()
    # Imported here, because process 1 of a container must not lose a signal during the import.
    try:
        from fsm_runner.cli.program import run_command
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    run_command()
