"""Validates values against JSON Schemas, in a separate program.

Both come from other programs. Small ones can take unlimited time together (`$ref`s that double at each step,
patterns), so the program that validates them can be killed.
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from fsm_runner.process.child.child import Child
from fsm_runner.process.errors import InputClosed, ProcessStuck

CHECK_PROGRAM = Path(__file__).with_name("check_program.py")
VALIDATION_LIMIT_S = 5.0
"""Other validations wait during this time."""
OUTPUT_LIMIT_BYTES = 4096
"""The captured part of each output stream. Responses are read as they arrive, and stderr is not used."""


class Checked(msgspec.Struct, frozen=True):
    """The outcome of a validation. The value is valid if both fields are empty."""

    errors: tuple[dict[str, str], ...] = ()
    """The first errors, each with `path` (JSONPath), `message` and `schema_path`."""
    broken: str | None = None
    """Why the schema is no JSON Schema."""


_decode_checked = msgspec.json.Decoder(Checked).decode


class SchemaChecker:
    """Owns the program, which starts with the first validation and serves all. End it with `aclose`."""

    def __init__(self) -> None:
        self._program: _CheckProgram | None = None
        self._lock = asyncio.Lock()

    async def check(self, schema: bytes, value: bytes) -> Checked:
        """Validate a value against a schema, both JSON. Raises `SpawnFailed` if no process can start."""
        # In JSON, a line break can only be white space between two tokens.
        request = b"".join(document.replace(b"\n", b" ") + b"\n" for document in (schema, value))
        async with self._lock:
            return await self._checked(request)

    async def aclose(self) -> None:
        async with self._lock:
            await self._end_program()

    async def _checked(self, request: bytes) -> Checked:
        # Something else may have killed a program that has responded before, so another program gets the request.
        # If a new program ends, this request is the cause.
        attempts = 1 if self._program is None else 2
        with suppress(TimeoutError):
            for _ in range(attempts):
                with suppress(_Ended):
                    return await self._exchange(request)
        message = f"cannot be validated: it takes more than {VALIDATION_LIMIT_S:g} s, or too much memory"
        return Checked(({"path": "$", "message": message, "schema_path": ""},))

    async def _exchange(self, request: bytes) -> Checked:
        """Raises `_Ended`, TimeoutError, or `SpawnFailed` if no program can start. In each case, none is left."""
        try:
            if self._program is None or self._program.has_ended:
                self._program = _CheckProgram()
            async with asyncio.timeout(VALIDATION_LIMIT_S):
                return _decode_checked(await self._program.exchange(request))
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
        self._ending = asyncio.create_task(self._child.wait(), name="schema-checker-exit")
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
