"""Errors for the user, and exit codes."""

EXIT_OK = 0
EXIT_FAILED = 1
"""A run, a check or a registration failed."""
EXIT_USAGE = 2
"""Bad input: flags, files, profiles or parameters."""
EXIT_UNRECORDED = 3
"""A decision about an approval counts, but is not on disk yet."""
EXIT_ABORTED = 130
"""A third signal: the runner exited at once."""


class FsmRunnerError(Exception):
    """An error that the user can act on. Its text is the whole message, without a traceback."""

    exit_code = EXIT_FAILED


class UsageError(FsmRunnerError):
    """Bad input: the text names the file, field or flag and says what to do."""

    exit_code = EXIT_USAGE
