"""What a run must have produced (`expect` of its agent or of the profile)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fsm_runner.errors import FsmRunnerError
from fsm_runner.executors.interface import RunRefused
from fsm_runner.json_schema.checker import Checked, SchemaChecker
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.protocol.expectations import Expectation, expectations_of
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, Agent, JsonObject, Run
from fsm_runner.reporting.session_channel import NULL, ExecutorEvent
from fsm_runner.runtime.git import Git
from fsm_runner.runtime.workspace_state import NoRepository, StateUnknown, WorkspaceState, workspace_state

_NULL = bytes(NULL)
_Value = dict[str, msgspec.Raw] | list[msgspec.Raw] | str | int | float | bool | None
"""A JSON value whose parts are not decoded."""


class Unfulfilled(FsmRunnerError):
    """The run ended without what it must have produced. The text is the run's error."""


class ExpectationContext(msgspec.Struct, frozen=True, kw_only=True):
    """Shared by all runs of one runner."""

    of_profile: frozenset[Expectation] = frozenset()
    agents: Mapping[str, Agent] = {}
    """The runner's own agents by name. A deployed coordinator does not keep their `expect`."""
    git: Git = Git(environment={})
    checker: SchemaChecker = msgspec.field(default_factory=SchemaChecker)

    def of_run(self, run: Run) -> "RunExpectations":
        """Return the expectations of the run's agent, or else of the profile. Raises `RunRefused`."""
        blueprint, own = run.resolved_agent_blueprint or {}, self.agents.get(run.agent_name or "")
        listed, schema = blueprint.get("expect"), blueprint.get("output_schema")
        if own is not None:
            listed = own.expect if listed is None else listed
            schema = own.output_schema if schema is None else schema
        try:
            wanted = self.of_profile if listed is None else expectations_of(msgspec.convert(listed, list[str]))
        except ValueError as defect:  # also a ValidationError
            raise RunRefused(f"the run's agent cannot be used: expect: {defect}") from defect
        if "data" not in wanted:
            return RunExpectations(self, wanted)
        if not isinstance(schema, dict):
            raise RunRefused("the run must end with data (expect: data), but its agent has no output_schema")
        return RunExpectations(self, wanted, schema)


class RunExpectations:
    """The expectations of one run, and what is known about their fulfilment. A run may have none."""

    def __init__(
        self,
        context: ExpectationContext,
        wanted: frozenset[Expectation] = frozenset(),
        schema: JsonObject | None = None,
    ) -> None:
        """`schema`: the agent's `output_schema`, if data is expected."""
        self._context = context
        self.wanted = wanted
        self._schema = encode_json(schema)
        self._has_result = False
        self._data: bytes | None = None
        """The data of the last result, as JSON. It is only kept if data is expected, since it may be long."""
        self.before: WorkspaceState | None = None
        """The state of the workspace before the run's first execution, if changes are expected."""

    def note_event(self, event: ExecutorEvent) -> None:
        """Note a result; the last one of the run counts."""
        if event.kind != "result" or not self.wanted:
            return
        self._has_result = not (_is_empty(event.result_text) and _is_empty(event.result_data))
        if "data" in self.wanted:
            data = bytes(event.result_data)  # a `Raw` keeps the whole event in memory
            self._data = None if data == _NULL else data

    async def prepare(self, folder: Path) -> None:
        """Look at the workspace before the first execution. Raises an `FsmRunnerError` if the check is impossible."""
        if "data" in self.wanted:
            checked = await self._checked(_NULL)
            if checked.broken is not None:
                raise RunRefused(f"the agent's output_schema is not a valid JSON Schema: {checked.broken}")
        if "changes" in self.wanted and self.before is None:
            try:
                self.before = await workspace_state(folder, self._context.git)
            except (NoRepository, StateUnknown) as defect:
                raise RunRefused(f"the run must change a git repository (expect: changes), but {defect}") from defect

    async def check(self, folder: Path) -> None:
        """Raise `Unfulfilled` with everything that is missing."""
        missing = []
        if "changes" in self.wanted and (unchanged := await self._unchanged_repository(folder)) is not None:
            missing.append(f"the git repository {unchanged} is unchanged (expect: changes)")
        if "result" in self.wanted and not self._has_result:
            missing.append("its result is empty (expect: result)")
        if "data" in self.wanted and self._data is None:
            missing.append("it has sent no data as its result (expect: data)")
        if missing:
            raise Unfulfilled(f"the run did nothing: {'; '.join(missing)}")
        if self._data is not None:
            await self._check_data(self._data)

    async def _unchanged_repository(self, folder: Path) -> str | None:
        """Return the repository; None if it has changed. Raises `Unfulfilled` if that is unknown."""
        unknown = "whether the run has changed anything (expect: changes) is unknown"
        if self.before is None:
            raise Unfulfilled(f"{unknown}: the journal has no state of the repository before the run")
        try:
            after = await workspace_state(folder, self._context.git)
        except NoRepository:  # the run has deleted it
            return None
        except StateUnknown as fault:
            raise Unfulfilled(f"{unknown}: {fault}") from fault
        return after.repository if after == self.before else None

    async def _check_data(self, data: bytes) -> None:
        checked = await self._checked(data)
        if checked.errors:
            first = checked.errors[0]
            raise Unfulfilled(
                f"the result does not match the output_schema of the agent (expect: data): "
                f"{first['path']}: {first['message']}"
            )

    async def _checked(self, data: bytes) -> Checked:
        try:
            return await self._context.checker.check(self._schema, data)
        except SpawnFailed as fault:
            raise Unfulfilled(f"data cannot be compared with the agent's output_schema: {fault}") from fault


def _is_empty(value: msgspec.Raw) -> bool:
    try:
        decoded: Any = msgspec.json.decode(value, type=_Value)
    except DECODE_FAULTS:  # such as a number with too many digits
        return False
    return decoded is None or (not decoded.strip() if isinstance(decoded, str) else decoded in ({}, []))
