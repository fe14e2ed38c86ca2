"""The exit of a child."""

import msgspec

from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.limits.limits import ResourceLimits


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a child ended."""

    code: int
    """As in a shell: 128 + N if signal N killed it."""
    signal: str | None
    stdout: BoundedCapture
    stderr: BoundedCapture
    exceeded: str | None = None
    """The message about the limit that it exceeded, if any."""

    @property
    def succeeded(self) -> bool:
        return self.code == 0 and self.exceeded is None


def open_files_text(limits: ResourceLimits, code: int, *outputs: BoundedCapture) -> str | None:
    """Return the message about the limit of open files if the child's output says that it failed because of it.

    The kernel reports this limit only to the process itself, so there is no better evidence. The text that is searched
    is the C library's message for EMFILE, which nearly every program uses.
    """
    if limits.open_files is None or code == 0:
        return None
    for output in outputs:
        if "too many open files" in (text := output.text()).lower():
            return f"limit of {limits.open_files:,} open files in a process reached: {text.strip()}"
    return None
