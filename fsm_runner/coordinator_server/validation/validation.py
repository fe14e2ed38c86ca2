"""Parameters against an agent's `parameters_schema` (protocol.md, section 1.3).

Parameters may come from an executor, and schemas from whoever may register: there are small ones of both that take for
ever together (`$ref`s that double at each step, patterns). So a program of its own checks them, which can be ended.
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from fsm_runner.coordinator_server.errors import Refusal
from fsm_runner.process.child.child import Child
from fsm_runner.process.errors import InputClosed, ProcessStuck, SpawnFailed
from fsm_runner.protocol.wire import JsonObject

CHECK_PROGRAM = Path(__file__).with_name("check_program.py")
CHECK_WITHIN_S = 5.0
"""Others wait as long for their turn."""
OUTPUT_LIMIT_BYTES = 4096
"""Kept of each of its outputs: answers are taken as they come, and what it says on stderr is for nobody."""

_PASSED_ON = ("LD_LIBRARY_PATH",)
"""What an interpreter may need to start."""

PROMPT_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"prompt": {"type": "string"}},
    "required": ["prompt"],
}
"""What an autonomous agent without a schema of its own takes."""


class _Verdict(msgspec.Struct, frozen=True):
    errors: tuple[dict[str, str], ...] = ()
    broken: str | None = None


_decode_verdict = msgspec.json.Decoder(_Verdict).decode


class ParameterChecks:
    """One program for all checks, started for the first. Use `aclose` at the end."""

    def __init__(self) -> None:
        self._program: _CheckProgram | None = None
        self._turn = asyncio.Lock()

    async def refuse_unless_valid(self, schema: JsonObject, parameters: JsonObject) -> None:
        """Raises a 400 Refusal where the parameters, or the schema itself, are wrong; a 503 one where no process can be
        started that finds it out."""
        question = b"%s\n%s\n" % (msgspec.json.encode(schema), msgspec.json.encode(parameters))
        async with self._turn:
            verdict = await self._verdict(question)
        if verdict.broken is not None:
            message = f"The agent's parameters_schema is no valid JSON Schema: {verdict.broken}"
            raise Refusal(400, {"error": "invalid_parameters_schema", "message": message})
        if verdict.errors:
            raise Refusal(
                400,
                {
                    "error": "parameter_validation_failed",
                    "message": f"Parameters do not match the agent's schema: {verdict.errors[0]['message']}",
                    "validation_errors": verdict.errors,
                    "parameters_schema": schema,
                },
            )

    async def aclose(self) -> None:
        async with self._turn:
            await self._end_program()

    async def _verdict(self, question: bytes) -> _Verdict:
        has_served = self._program is not None
        try:
            return await self._answer(question)
        except _Ended:
            # A program that has answered before may have been killed for another reason: a new one gets the question.
            # A new program that ends was ended by this question.
            if has_served:
                with suppress(_Ended, TimeoutError):
                    return await self._answer(question)
        except TimeoutError:
            pass
        message = f"cannot be checked: it takes more than {CHECK_WITHIN_S:g} s, or too much memory"
        return _Verdict(({"path": "$", "message": message, "schema_path": ""},))

    async def _answer(self, question: bytes) -> _Verdict:
        """Raises `_Ended`, TimeoutError, or `Refusal` where no program can be started; then there is none any more."""
        try:
            if self._program is None or self._program.has_ended:
                self._program = _CheckProgram()
            async with asyncio.timeout(CHECK_WITHIN_S):
                return _decode_verdict(await self._program.answer_to(question))
        except SpawnFailed as fault:
            raise Refusal(503, f"Parameters cannot be checked at the moment: {fault}") from None
        except BaseException:
            # The next question must not be given the answer to this one.
            await self._end_program()
            raise

    async def _end_program(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            await program.end()


class _Ended(Exception):
    """The program has, without an answer."""


class _CheckProgram:
    """A process that answers one question after another."""

    def __init__(self) -> None:
        """Raises `SpawnFailed`."""
        self._answer = bytearray()
        self._answered = asyncio.Event()
        self._child = Child.start(
            [sys.executable, "-I", str(CHECK_PROGRAM)],
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            cwd=Path("/"),
            pipe_stdin=True,
            stdout_limit_bytes=OUTPUT_LIMIT_BYTES,
            stderr_limit_bytes=OUTPUT_LIMIT_BYTES,
            on_stdout=self._take,
        )
        self._ending = asyncio.create_task(self._child.wait(), name="end of the parameter check")

    @property
    def has_ended(self) -> bool:
        """By itself, or since somebody has killed it."""
        return self._ending.done()

    async def answer_to(self, question: bytes) -> bytes:
        """Raises `_Ended` where it ends instead."""
        self._answer.clear()
        self._answered.clear()
        try:
            await self._child.stdin.write(question)
        except InputClosed as closed:
            raise _Ended from closed
        answered = asyncio.create_task(self._answered.wait(), name="answer of the parameter check")
        try:
            await asyncio.wait((answered, self._ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            answered.cancel()
        if not self._answered.is_set():
            raise _Ended
        return bytes(self._answer)

    async def end(self) -> None:
        with suppress(ProcessStuck):
            await self._child.stop(term_grace_s=0)
        self._ending.cancel()

    def _take(self, chunk: bytes) -> None:
        self._answer += chunk
        if self._answer.endswith(b"\n"):
            self._answered.set()
