"""The entry of an executor: its arguments, its invocation, its exit code."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn

from fsm_executor.errors import ExecutorError
from fsm_executor.inbox import read_invocation
from fsm_executor.inherited import settle
from fsm_executor.invocation import SCHEMA_VERSIONS, invocation_schema
from fsm_executor.json_text import encode_json
from fsm_executor.lines import LineReader
from fsm_executor.streams import claim_stdin, claim_stdout, print_line

if TYPE_CHECKING:
    from fsm_executor.session import Session

Main = Callable[["Session"], Awaitable[None]]

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def run(main: Main, *, name: str, version: str) -> NoReturn:
    """Do what the arguments and standard input say with `main`, and exit.

    0: `main` has returned, all turns completed; also when the runner's shutdown has cancelled it. 1: bad input, a
    turn that was not completed, or an exception; the last line on stderr says which. 2: unknown arguments.
    143: ended by SIGTERM, with `main` cancelled.
    """
    settle()
    sys.exit(_exit_code(main, name, version, sys.argv[1:]))


def _exit_code(main: Main, name: str, version: str, arguments: list[str]) -> int:
    try:
        if arguments == ["--version"]:
            return _say({"executor": name, "version": version, "schema_versions": list(SCHEMA_VERSIONS)})
        if arguments == ["--schema"]:
            return _say(invocation_schema())
        if arguments:
            sys.stderr.write(
                f"Usage: {name} [--version | --schema]\nWithout arguments: a runner writes to standard input\n"
            )
            return EXIT_USAGE
        lines = LineReader(claim_stdin())
        invocation = read_invocation(lines)
        # Half of the time that an executor takes to start; bad input is answered without.
        from fsm_executor.live import live

        return live(main, invocation, lines, claim_stdout(), name)
    except ExecutorError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - whatever the author's code raises is the run's error
        from fsm_executor.tracebacks import authors_traceback, summary

        _flush_prints()
        sys.stderr.write(authors_traceback(error))
        return _failed(summary(error))


def _say(value: object) -> int:
    """Print the value as JSON. Returns the exit code. Raises `ExecutorError` if standard output fails."""
    print_line(encode_json(value))
    return EXIT_OK


def _failed(reason: str) -> int:
    _flush_prints()
    sys.stderr.write(f"Error: {reason}\n")
    return EXIT_FAILED


def _flush_prints() -> None:
    """What has been printed stands above the error, which is the last line."""
    if sys.stdout is not None:
        sys.stdout.flush()
