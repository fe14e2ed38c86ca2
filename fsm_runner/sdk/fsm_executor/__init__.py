"""What an executor written in Python needs to speak the executor protocol (protocol.md, sections 1.4, 2 and 3).

    import fsm_executor

    async def main(session: fsm_executor.Session) -> None:
        await session.bind(f"mine_{session.id}")
        async for turn in session.turns():
            await turn.complete(turn.prompt.upper())

    if __name__ == "__main__":
        fsm_executor.run(main, name="shout", version="1.0")

The runner puts the folder of this package on the PYTHONPATH of every executor that it starts, whatever interpreter and
environment that has. So there is nothing in here but the standard library of Python 3.10, and nothing of the runner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsm_executor.errors import ExecutorError, GatewayError, ProtocolError
from fsm_executor.invocation import SCHEMA_VERSIONS, Invocation
from fsm_executor.program import run

if TYPE_CHECKING:
    from fsm_executor.gateway import Answer
    from fsm_executor.session import Session
    from fsm_executor.turn import Turn

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

_LOADED_WHEN_NAMED = {"Answer": "gateway", "Session": "session", "Turn": "turn"}
"""They need asyncio: half of the time that an executor takes to start. `--version` and bad input do without."""


def __getattr__(name: str) -> Any:
    if name not in _LOADED_WHEN_NAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LOADED_WHEN_NAMED[name]}"), name)
