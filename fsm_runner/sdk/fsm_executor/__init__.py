"""A library for executors in Python, which implements the executor protocol (protocol.md, sections 1.4, 2 and 3).

    import fsm_executor

    async def main(session: fsm_executor.Session) -> None:
        await session.bind(f"mine_{session.id}")
        async for turn in session.turns():
            await turn.complete(turn.prompt.upper())

    if __name__ == "__main__":
        fsm_executor.run(main, name="shout", version="1.0")

The runner puts the folder of this package on the PYTHONPATH of every executor, whatever interpreter that uses.
So this package needs only the standard library of Python 3.10, and imports nothing from the runner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsm_executor.errors import ExecutorError, GatewayError, ProtocolError
from fsm_executor.invocation import SCHEMA_VERSIONS, Invocation
from fsm_executor.program import run

if TYPE_CHECKING:
    from fsm_executor.gateway import Answer
    from fsm_executor.session import Session, Turn

__all__ = [
    "SCHEMA_VERSIONS",
    "Answer",
    "ExecutorError",
    "GatewayError",
    "Invocation",
    "ProtocolError",
    "Session",
    "Turn",
    "run",
]

_LAZY = {"Answer": "gateway", "Session": "session", "Turn": "session"}
"""These need asyncio, which takes half of an executor's start time. `--version` and bad input do not need it."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
