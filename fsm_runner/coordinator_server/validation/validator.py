"""Validates parameters against an agent's `parameters_schema` (protocol.md, section 1.3).

Executors send parameters and runners send schemas. Small ones can take unlimited time together (`$ref`s that double at
each step, patterns), so a separate program validates them, which can be killed.
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from fsm_runner.coordinator_server.errors import InvalidRequest, Unavailable
from fsm_runner.process.child.child import Child
from fsm_runner.process.errors import InputClosed, ProcessStuck, SpawnFailed
from fsm_runner.protocol.wire import JsonObject

CHECK_PROGRAM = Path(__file__).with_name("check_program.py")
VALIDATION_LIMIT_S = 5.0
"""Other validations wait during this time."""
OUTPUT_LIMIT_BYTES = 4096
"""The captured part of each output stream. Responses are read as they arrive, and stderr is not used."""


class _Outcome(msgspec.Struct, frozen=True):
    errors: tuple[dict[str, str], ...] = ()
    broken: str | None = None


_decode_outcome = msgspec.json.Decoder(_Outcome).decode


class ParameterValidator:
    """Owns the program, which starts with the first validation and serves all. End it with `aclose`."""

    def __init__(self) -> None:
        self._program: _CheckProgram | None = None
        self._lock = asyncio.Lock()

    async def validate(self, schema: JsonObject, parameters: JsonObject) -> None:
        """Raise `InvalidRequest` if the parameters or the schema are invalid; `Unavailable` if no process can start."""
        request = b"%s\n%s\n" % (msgspec.json.encode(schema), msgspec.json.encode(parameters))
        async with self._lock:
            outcome = await self._outcome(request)
        if outcome.broken is not None:
            message = f"The agent's parameters_schema is not a valid JSON Schema: {outcome.broken}"
            raise InvalidRequest({"error": "invalid_parameters_schema", "message": message})
        if outcome.errors:
            raise InvalidRequest(
                {
                    "error": "parameter_validation_failed",
                    "message": f"Parameters do not match the agent's schema: {outcome.errors[0]['message']}",
                    "validation_errors": outcome.errors,
                    "parameters_schema": schema,
                }
            )

    async def aclose(self) -> None:
        async with self._lock:
            await self._end_program()

    async def _outcome(self, request: bytes) -> _Outcome:
        # Something else may have killed a program that has responded before, so another program gets the request.
        # If a new program ends, this request is the cause.
        attempts = 1 if self._program is None else 2
        with suppress(TimeoutError):
            for _ in range(attempts):
                with suppress(_Ended):
                    return await self._exchange(request)
        message = f"cannot be validated: it takes more than {VALIDATION_LIMIT_S:g} s, or too much memory"
        return _Outcome(({"path": "$", "message": message, "schema_path": ""},))

    async def _exchange(self, request: bytes) -> _Outcome:
        """Raises `_Ended`, TimeoutError, or `Unavailable` if no program can start. In each case, none is left."""
        try:
            if self._program is None or self._program.has_ended:
                self._program = _CheckProgram()
            async with asyncio.timeout(VALIDATION_LIMIT_S):
                return _decode_outcome(await self._program.exchange(request))
        except SpawnFailed as fault:
            raise Unavailable(f"Parameters cannot be validated at the moment: {fault}") from None
        except BaseException:
            # The next request must not get the response to this one.
            await self._end_program()
            raise

    async def _end_program(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            await program.end()


class _Ended(Exception):
    """The program ended without a response."""


class _CheckProgram:
    """A process that responds to one request after another."""

    def __init__(self) -> None:
        """Raises `SpawnFailed`."""
        self._response = bytearray()
        self._changed = asyncio.Event()
        """Set when the program has responded or ended."""
        self._child = Child.start(
            [sys.executable, "-I", str(CHECK_PROGRAM)],
            # An interpreter may need this one to start.
            env={name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
            cwd=Path("/"),
            pipe_stdin=True,
            output_limit_bytes=OUTPUT_LIMIT_BYTES,
            on_stdout=self._take,
        )
        self._ending = asyncio.create_task(self._child.wait(), name="coordinator-validator-exit")
        self._ending.add_done_callback(lambda _: self._changed.set())

    @property
    def has_ended(self) -> bool:
        return self._ending.done()

    async def exchange(self, request: bytes) -> bytes:
        """Send the request and return the response. Raises `_Ended`."""
        self._response.clear()
        self._changed.clear()
        try:
            await self._child.stdin.write(request)
        except InputClosed as closed:
            raise _Ended from closed
        await self._changed.wait()
        if not self._response.endswith(b"\n"):
            raise _Ended
        return bytes(self._response)

    async def end(self) -> None:
        with suppress(ProcessStuck):
            await self._child.stop(term_grace_s=0)
        self._ending.cancel()

    def _take(self, chunk: bytes) -> None:
        self._response += chunk
        if self._response.endswith(b"\n"):
            self._changed.set()
