"""The procedural executor: each run is one command or script. Contract: protocol.md, section 2.1."""

import asyncio
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec

from fsm_runner.executors.arguments import command_arguments, split_command
from fsm_runner.executors.environment import session_variables
from fsm_runner.executors.exit_text import failure_text, with_output
from fsm_runner.executors.interface import Assignment, ExecutionFailed, RunRefused
from fsm_runner.process.child.child import Child, Exit
from fsm_runner.process.child.executable import not_executable
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy
from fsm_runner.process.user import with_rights_of
from fsm_runner.protocol.json_text import decode_json, valid_json
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.protocol.wire import DECODE_FAULTS, Agent, JsonObject, Run
from fsm_runner.reporting.session_channel import SessionChannel
from fsm_runner.scripts import store
from fsm_runner.scripts.sync import ScriptSync
from fsm_runner.util.tasks import wait_forever
from fsm_runner.util.threads import in_thread

TIME_LIMIT_S = 300.0
TIME_LIMIT_EXIT_CODE = 124


class ProceduralConfig(msgspec.Struct, frozen=True):
    """The keys of a profile's `config` that this executor reads; it ignores others."""

    timeout: Annotated[float, msgspec.Meta(gt=0)] = TIME_LIMIT_S
    """The time limit of a command, in seconds."""


class ProceduralExecutor(msgspec.Struct, frozen=True):
    """Starts the agent's command or script with the run's parameters as arguments."""

    folder: Path
    """The executor's own folder, to which agent commands are relative."""
    config: ProceduralConfig
    project_dir: Path
    environment: dict[str, str]
    script_source: ScriptSync
    launch_policy: LaunchPolicy = DEFAULT_LAUNCH_POLICY

    def check(self, agent: Agent) -> Path | None:
        """Return the command of one of this runner's agents, or None if it has a script.

        Raises an `FsmRunnerError` if the command does not exist or is not executable.
        """
        if agent.script is not None or not agent.command:
            return None
        program = Path(self._own_command(agent)[0])
        if not program.is_file():
            raise ExecutionFailed(f"there is no file {program}")
        if (reason := not_executable(program)) is not None:
            raise ExecutionFailed(f"{program} {reason}")
        return program

    def accept(self, run: Run) -> None:
        if run.type == "resume_session":
            raise RunRefused("a procedural agent has no session that could be resumed")
        agent = _agent(run)
        if agent.script is None and not agent.command:
            raise RunRefused(f"agent {agent.name!r} has neither a command nor a script")

    def starts_process(self, run: Run) -> bool:
        return True

    def can_continue(self, session_id: str) -> bool:
        return False

    async def wait_until_lost(self, session_id: str) -> NoReturn:
        await wait_forever()

    async def end_session(self, session_id: str) -> None:
        """No process lives on after its run."""

    async def prepare(self, assignment: Assignment) -> None:
        script = _agent(assignment.run).script
        if script is not None:
            await self.script_source.ready(script)

    async def start(self, assignment: Assignment, session: SessionChannel) -> "ProceduralExecution":
        run = assignment.run
        agent = _agent(run)
        with ExitStack() as resources:
            if agent.script is None:
                command = self._own_command(agent)
            else:
                # Waits while the script is being replaced.
                script = await in_thread(
                    with_rights_of, self.launch_policy.user, store.use_script, self.project_dir, agent.script
                )
                resources.callback(script.close)
                command = script.command
            child = Child.start(
                [*command, *command_arguments(run.parameters)],
                cwd=Path(assignment.project_dir),
                env={**self.environment, **session_variables(run.session_id)},
                launch_policy=self.launch_policy,
                label=run.run_id,
            )
            session.bind(f"proc_{run.session_id}", assignment.project_dir)
            return ProceduralExecution(child, session, self.config.timeout, resources.pop_all())

    def _own_command(self, agent: Agent) -> list[str]:
        """Return the words of a command, which must be in the executor's folder: the coordinator may send any."""
        program, *arguments = split_command(agent.command or "")
        path = Path(os.path.normpath(self.folder / program))
        if not path.is_relative_to(self.folder):
            raise ExecutionFailed(f"agent {agent.name!r}: command {program!r} is not in {self.folder}")
        return [str(path), *arguments]


class ProceduralExecution(msgspec.Struct, frozen=True):
    """One running command."""

    child: Child
    session: SessionChannel
    time_limit_s: float
    resources: ExitStack
    """They are closed at the end."""

    @property
    def process(self) -> Child:
        return self.child

    async def wait(self) -> CompletedSession:
        in_time = True
        try:
            async with asyncio.timeout(self.time_limit_s):
                await self.child.wait()
        except TimeoutError:
            in_time = False
            await self.child.stop()
        ended = await self.child.wait()
        code = ended.code if in_time else TIME_LIMIT_EXIT_CODE
        self.session.result(result_data(code, ended))
        if not in_time and ended.exceeded is None:
            reason = f"the command did not end within its time limit of {self.time_limit_s:g} s"
            raise ExecutionFailed(with_output(reason, ended.stdout, ended.stderr))
        if not ended.succeeded:
            raise ExecutionFailed(failure_text(ended))
        return "finished"

    async def stop(self) -> StopSignal:
        return await self.child.stop()

    async def aclose(self) -> None:
        with self.resources:
            await self.child.stop(term_grace_s=0)


def result_data(code: int, ended: Exit) -> JsonObject:
    """Return stdout if it is one JSON object, otherwise an object with the exit code and the output."""
    if not ended.stdout.truncated:
        with suppress(*DECODE_FAULTS):
            return decode_json(valid_json(ended.stdout.bytes()), JsonObject)
    return {"return_code": code, "stdout": ended.stdout.text().strip(), "stderr": ended.stderr.text().strip()}


def printed(data: object) -> str | None:
    """Return the stdout in the result of a command that has printed no JSON object; None if it is another result."""
    is_output = isinstance(data, dict) and data.keys() == {"return_code", "stdout", "stderr"}
    return str(data["stdout"]) if is_output and isinstance(data, dict) else None


def _agent(run: Run) -> Agent:
    if run.resolved_agent_blueprint is None:
        raise RunRefused("the run names no agent, so a procedural executor has nothing to execute")
    try:
        return msgspec.convert(run.resolved_agent_blueprint, Agent)
    except msgspec.ValidationError as defect:
        raise RunRefused(f"the run's agent cannot be read: {defect}") from defect
