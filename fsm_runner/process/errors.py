"""What can go wrong with a child process, in words for the person who started it."""

from fsm_runner.errors import FsmRunnerError


class SpawnFailed(FsmRunnerError):
    """The command could not be started; nothing of it runs."""


class ProcessStuck(FsmRunnerError):
    """The process did not end after SIGKILL: the kernel holds it, as a rule in a read or write that does not return."""


class InputClosed(FsmRunnerError):
    """The process does not read its standard input any more, or has ended."""
