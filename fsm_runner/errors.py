"""Errors that are meant for the person at the terminal, and the exit codes that go with them."""

EXIT_OK = 0
EXIT_FAILED = 1
"""What was asked for was tried and failed: a run, a check, a registration."""
EXIT_USAGE = 2
"""What was asked for cannot be tried: bad flags, files, profiles, parameters."""
EXIT_ABORTED = 130
"""A third signal: the runner left without waiting for anything."""


class FsmRunnerError(Exception):
    """Something that the user can act on. Its text is the whole message; no traceback is shown."""

    exit_code = EXIT_FAILED


class UsageError(FsmRunnerError):
    """Bad input: the text names the file, field or flag and says what to do."""

    exit_code = EXIT_USAGE
