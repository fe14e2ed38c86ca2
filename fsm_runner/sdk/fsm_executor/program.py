"""The entry point of an executor: arguments, invocation and exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from fsm_executor.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, ExecutorError
from fsm_executor.inherited import normalize
from fsm_executor.invocation import SCHEMA_VERSIONS, invocation_schema
from fsm_executor.json_text import encode_json
from fsm_executor.lines import LineReader
from fsm_executor.messages import read_invocation
from fsm_executor.streams import claim_stdin, claim_stdout, print_line

if TYPE_CHECKING:
    from fsm_executor.session import Main


def run(main: Main, *, name: str, version: str) -> NoReturn:
    """Run `main` with the session from standard input, or handle `--version` or `--schema`, and exit.

    Exit codes: 0 if `main` returned with all turns completed, or if the runner's shutdown cancelled it. 1 for bad
    input, a turn that was not completed, or an exception; the last line on stderr has the reason. 2 for unknown
    arguments. 143 after SIGTERM, which cancels `main`.
    """
    normalize()
    sys.exit(_exit_code(main, name, version, sys.argv[1:]))


def _exit_code(main: Main, name: str, version: str, arguments: list[str]) -> int:
    try:
        if arguments == ["--version"]:
            return _print_json({"executor": name, "version": version, "schema_versions": list(SCHEMA_VERSIONS)})
        if arguments == ["--schema"]:
            return _print_json(invocation_schema())
        if arguments:
            sys.stderr.write(f"Usage: {name} [--version | --schema]\nWithout arguments it reads a runner's messages.\n")
            return EXIT_USAGE
        lines = LineReader(claim_stdin())
        invocation = read_invocation(lines)
        # This import takes half of the start time, and bad input does not need it.
        from fsm_executor.session_runner import run_session

        return run_session(main, invocation, lines, claim_stdout(), name)
    except ExecutorError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - any exception of the executor's own code is the run's error
        from fsm_executor.tracebacks import authors_traceback, summary

        _flush_prints()
        sys.stderr.write(authors_traceback(error))
        return _failed(summary(error))


def _print_json(value: object) -> int:
    """Print the value as JSON, and return the exit code. Raises `ExecutorError` if standard output fails."""
    print_line(encode_json(value))
    return EXIT_OK


def _failed(reason: str) -> int:
    _flush_prints()
    sys.stderr.write(f"Error: {reason}\n")
    return EXIT_FAILED


def _flush_prints() -> None:
    """Flush printed text, so that the error is the last line."""
    if sys.stdout is not None:
        sys.stdout.flush()
