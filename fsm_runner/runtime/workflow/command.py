"""The activity `command`: a program that runs in the run's project directory."""

import os
import shutil
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from fsm_runner.executors.environment import session_variables
from fsm_runner.executors.exit_text import failure_text, with_output
from fsm_runner.executors.procedural import TIME_LIMIT_EXIT_CODE
from fsm_runner.process.child.child import Child, Exit
from fsm_runner.process.errors import InputClosed, SpawnFailed
from fsm_runner.protocol.json_text import decode_json, json_error, valid_json
from fsm_runner.protocol.statuses import StopSignal
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject
from fsm_runner.runtime.workflow.context import WorkflowContext
from fsm_runner.runtime.workflow.step import Ended, Visit
from fsm_runner.util.error_text import limited_error
from fsm_runner.util.tasks import background_task
from fsm_runner.workflow.arguments import option_defect
from fsm_runner.workflow.definition import Command

NOT_STARTED_EXIT_CODE, NOT_FOUND_EXIT_CODE = 126, 127
"""As in a shell: the program cannot be started, or there is none of this name."""


class CommandStep:
    """One command. After an interruption it runs again: the runner's start has killed everything of the last attempt.

    `stop` may be called while `perform` runs, which then returns the value of a command that exceeded its time limit.
    """

    def __init__(self, visit: Visit, context: WorkflowContext) -> None:
        if not isinstance(visit.arguments, Command):
            raise TypeError(f"not a command: {visit.arguments}")
        self._visit = visit
        self._command = visit.arguments
        self._context = context
        self._child: Child | None = None
        self._is_stopped = False

    @property
    def process(self) -> Child | None:
        return self._child

    async def perform(self) -> Ended:
        environment = self._environment()
        if self._is_stopped:
            return _not_started(NOT_STARTED_EXIT_CODE, "the command was stopped before it began")
        if (defect := option_defect(self._visit.state, self._command)) is not None:
            return _not_started(NOT_STARTED_EXIT_CODE, defect)
        try:
            child = self._child = Child.start(
                self._command.run,
                env=environment,
                cwd=self._visit.project_dir,
                pipe_stdin=self._command.stdin is not None,
                launch_policy=self._context.launch_policy,
                label=self._visit.run.run_id,
            )
        except SpawnFailed as fault:
            exists = _exists(self._command.run[0], environment, self._visit.project_dir)
            return _not_started(NOT_STARTED_EXIT_CODE if exists else NOT_FOUND_EXIT_CODE, str(fault))
        async with AsyncExitStack() as stack:
            if self._command.stdin is not None:
                feeding = _feed(child, self._command.stdin)
                await stack.enter_async_context(background_task(feeding, f"stdin of process {child.pid}"))
            return self._ended(await child.wait())

    async def stop(self) -> StopSignal:
        self._is_stopped = True
        return "shutdown" if self._child is None else await self._child.stop()

    async def aclose(self) -> None:
        self._is_stopped = True
        if self._child is not None:
            await self._child.stop(term_grace_s=0)

    def _environment(self) -> dict[str, str]:
        inherited = self._context.inherited
        named = {name: inherited[name] for name in self._command.env if name in inherited}
        return {**self._context.environment, **named, **session_variables(self._visit.run.session_id)}

    @property
    def _stopped(self) -> str:
        limit_s = self._visit.state.timeout_s
        return "the command did not end within its time limit" + ("" if limit_s is None else f" of {limit_s:g} s")

    def _ended(self, ended: Exit) -> Ended:
        value: JsonObject = {
            "ok": ended.succeeded and not self._is_stopped,
            "error": "",
            "exit_code": ended.code,
            "stdout": ended.stdout.text(),
            "stderr": ended.stderr.text(),
        }
        if self._is_stopped:
            value["exit_code"] = TIME_LIMIT_EXIT_CODE
            value["error"] = limited_error(with_output(self._stopped, ended.stdout, ended.stderr))
            return Ended("timeout", value)
        if not ended.succeeded:
            value["error"] = limited_error(failure_text(ended))
            return Ended("error", value)
        if self._visit.schema is not None:
            try:
                value["data"] = _data(ended)
            except ValueError as defect:
                value |= {"ok": False, "error": str(defect)}
                return Ended("error", value)
        return Ended("done", value)


async def _feed(child: Child, text: str) -> None:
    with suppress(InputClosed):  # a program need not read its input
        await child.stdin.write(text.encode(errors="replace"))
    child.stdin.close()


def _data(ended: Exit) -> Any:
    """Return stdout as JSON. Raises ValueError."""
    if ended.stdout.truncated:
        raise ValueError(f"its stdout is too long for `data`: {ended.stdout.total_bytes:,} bytes")
    text = valid_json(ended.stdout.bytes())
    try:
        return decode_json(text)
    except DECODE_FAULTS as defect:
        why = "it is nested too deeply" if isinstance(defect, RecursionError) else json_error(text, defect)
        raise ValueError(f"its stdout is not the JSON that the schema of the state requires: {why}") from None


def _not_started(exit_code: int, error: str) -> Ended:
    value = {"ok": False, "error": error, "exit_code": exit_code, "stdout": "", "stderr": ""}
    return Ended("error", value)


def _exists(name: str, environment: dict[str, str], folder: Path) -> bool:
    if "/" in name:
        return (folder / name).exists()
    return shutil.which(name, mode=os.F_OK, path=environment.get("PATH", os.defpath)) is not None
