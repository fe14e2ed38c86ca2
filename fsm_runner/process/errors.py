"""Errors of child processes."""

from fsm_runner.errors import FsmRunnerError


class SpawnFailed(FsmRunnerError):
    """The command could not be started, and nothing of it runs."""


class ProcessStuck(FsmRunnerError):
    """The process did not end after SIGKILL: the kernel holds it, usually in a read or write that does not return."""


class InputClosed(FsmRunnerError):
    """The process has closed its standard input or has ended."""


class PeerUnknown(FsmRunnerError):
    """The process at the other end of a socket has ended, or cannot be identified."""
