"""Turns of the run's own agent."""

import re
from collections import deque
from functools import partial
from typing import Any

import msgspec

from fsm_runner.errors import FsmRunnerError
from fsm_runner.executors.interface import Assignment, RunRefused
from fsm_runner.executors.procedural import printed
from fsm_runner.process.child.child import Child
from fsm_runner.protocol import wire
from fsm_runner.protocol.json_text import decode_json, encode_json
from fsm_runner.protocol.statuses import StopSignal
from fsm_runner.reporting import messages
from fsm_runner.reporting.queue import DeliveryFuture
from fsm_runner.reporting.session_channel import ExecutorEvent, SessionChannel
from fsm_runner.runtime.actors.executions import Executions, LimitReached
from fsm_runner.runtime.workflow.step import Ended, Visit
from fsm_runner.workflow.definition import Turn

CONTINUE_PROMPT = (
    "The program that runs you was interrupted while you worked on this. Look at what is done already, and then "
    "complete it."
)
"""The prompt of a turn that continues after an interruption (`on_interrupted = "continue"`)."""
TAKEN = b"taken"
"""The progress of a turn whose prompt the executor has taken."""
_FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
_BLOCK_LIMIT_CHARS = 1024 * 1024
"""A longer fenced block is not found, so that a text of any size takes little of the event loop's time."""


class TurnResult(msgspec.Struct, frozen=True):
    """The result of a turn, or of a child, as its executor has sent it. Not redacted."""

    text: str = ""
    data: Any = None

    @property
    def shown(self) -> str:
        """The text, or else what a command has printed, or else the data as JSON."""
        if (output := printed(self.data)) is not None:
            return output
        return self.text or ("" if self.data is None else encode_json(self.data).decode())

    @property
    def structured(self) -> Any:
        """The data, or else the JSON in the text, or else the text."""
        return json_in(self.shown) if self.data is None or printed(self.data) is not None else self.data


class TurnChannel(SessionChannel):
    """A session channel that keeps the results of turns.

    A run has one result (protocol.md, section 1.4), which is that of its workflow. The results of other turns are sent
    as messages.
    """

    turn_result: TurnResult = TurnResult()
    """The last result since `begin_turn`."""
    has_turns = False
    """Whether this process has begun a turn."""
    _is_shown = True
    """Whether the coordinator has the last result."""
    _last_text = ""
    """The last text of the assistant, which a result often repeats."""

    def begin_turn(self, *, is_new: bool) -> None:
        """`is_new`: whether the turn begins a conversation."""
        if is_new:
            self.last_bind = None
        self.turn_result, self._is_shown, self._last_text, self.has_turns = TurnResult(), True, "", True

    def bind(self, executor_session_id: str, project_dir: str | None) -> DeliveryFuture:
        """Bind the session, but once for each conversation."""
        last = self.last_bind
        if last is not None and last.body.executor_session_id == executor_session_id and self._may_bind():
            self.observer.note_bind()
            return last.delivery
        return super().bind(executor_session_id, project_dir)

    def event(self, event: ExecutorEvent, body: bytes) -> DeliveryFuture | None:
        if event.kind != "result":
            if event.kind == "message" and event.role == "assistant":
                self._last_text = _text_of(body)
            return super().event(event, body)
        text = _decoded(event.result_text)
        self.turn_result = TurnResult(text if isinstance(text, str) else "", _decoded(event.result_data))
        self._is_shown = False
        self.observer.note_event(ExecutorEvent("message", "assistant"))
        return None

    def show_turn_result(self) -> None:
        """Send the result of the last turn as a message, unless the coordinator has it. May be repeated."""
        if self._is_shown:
            return
        self._is_shown = True
        if (shown := self.turn_result.shown) not in ("", self._last_text):
            self._send_message(shown)

    def final_result(self, text: str, data: wire.JsonObject | None, *, waits_for_disk: bool) -> None:
        """Queue the result of the run: data, or else text. If there are both, the text is a message.

        `waits_for_disk`: whether it is sent only when the journal has the end of the workflow's last visit.
        """
        if (text, data) != (self.turn_result.text, self.turn_result.data):
            self.show_turn_result()
        if data is not None and text:
            self._send_message(text)
        result = wire.ResultEvent(
            session_id=self._session_id,
            timestamp=self._context.clock.now(),
            result_text=text if data is None else None,
            result_data=data,
        )
        raw_text, raw_data = (msgspec.Raw(encode_json(part)) for part in (result.result_text, result.result_data))
        message = messages.event(self._session_id, encode_json(result), self.run)
        self._put(msgspec.structs.replace(message, waits_for_disk=waits_for_disk))
        self.observer.note_event(ExecutorEvent("result", result_text=raw_text, result_data=raw_data))

    def _send_message(self, text: str) -> None:
        body = {
            "event_type": "message",
            "session_id": self._session_id,
            "timestamp": self._context.clock.now(),
            "role": "assistant",
            "content": [{"type": "text", "text": text}],
        }
        super().event(ExecutorEvent("message", "assistant"), encode_json(body))


class TurnStep:
    """One turn. A wait for a limit of the provider ends `perform` with `LimitReached`; the next call continues it."""

    def __init__(
        self,
        visit: Visit,
        activity: Turn,
        executions: Executions,
        channel: TurnChannel,
        *,
        is_first: bool,
        is_begun: bool,
        config_defect: str | None = None,
    ) -> None:
        """`is_first`: whether the run has had no turn yet. `is_begun`: whether the turn waited for a limit when an
        earlier process ended. `config_defect`: why the executor cannot have the configuration of the turn.
        """
        is_resumable = not is_first or visit.run.type == "resume_session"
        self._is_new = is_resumable and activity.session == "new"
        self._continues = is_resumable and not self._is_new
        self._visit = visit
        self._activity = activity
        self._executions = executions
        self._channel = channel
        self._is_first = is_first
        self._was_begun = is_begun
        self._is_begun = False
        self._config_defect = config_defect

    @property
    def process(self) -> Child | None:
        return None  # the executions watch their own process

    async def perform(self) -> Ended:
        if self._config_defect is not None:
            return Ended("error", {"ok": False, "error": self._config_defect, "result": ""})
        try:
            await self._begin()
            await self._executions.execute()
        except (LimitReached, RunRefused):  # a budget is used up
            raise
        except FsmRunnerError as failure:
            return Ended("error", {"ok": False, "error": str(failure), "result": self._channel.turn_result.shown})
        result = self._channel.turn_result
        value: wire.JsonObject = {"ok": True, "error": "", "result": result.shown}
        if self._visit.schema is not None:
            value["data"] = result.structured
        elif result.data is not None:  # for a workflow whose result is that of its last turn
            value["data"] = result.data
        return Ended("done", value)

    async def stop(self) -> StopSignal:
        return await self._executions.stop()

    async def aclose(self) -> None:
        """The executor of a turn that has ended may take the next one."""

    async def _begin(self) -> None:
        self._executions.on_prompt_taken = partial(self._visit.save, TAKEN)
        if self._is_begun:
            return
        self._is_begun = True
        self._executions.has_taken_prompt |= self._continues
        if self._is_new and not self._was_begun:
            await self._executions.end_conversation()
        self._channel.show_turn_result()
        self._channel.begin_turn(is_new=not self._continues)
        self._executions.begin_turn(self._assignment(), is_further_attempt=self._was_begun)

    def _assignment(self) -> Assignment:
        run, activity = self._visit.run, self._activity
        kind: wire.RunType = "resume_session" if self._continues else "start_session"
        parameters = run.parameters
        if activity.parameters is not None:
            parameters = activity.parameters
        elif activity.prompt is not None:
            parameters = {"prompt": activity.prompt}
        return Assignment(
            msgspec.structs.replace(run, type=kind, parameters=parameters),
            str(self._visit.project_dir),
            self._visit.runner_id,
            continues=self._continues and not self._is_first,
            config=activity.config or {},
        )


def json_in(text: str) -> object:
    """Return the JSON value that a text is, or that its last fenced block contains; the text itself if there is none.

    Models often write a sentence before the JSON.
    """
    for candidate in (text, _last_block(text)):
        try:
            return decode_json(candidate)
        except wire.DECODE_FAULTS:
            continue
    return text


def _last_block(text: str) -> str:
    """Return the lines of the last fenced block; empty if there is none."""
    end = text[-_BLOCK_LIMIT_CHARS:]
    fences = deque(_FENCE.finditer(end), maxlen=2)
    return end[fences[0].end() : fences[1].start()] if len(fences) > 1 else ""


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return decode_json(raw)
    except wire.DECODE_FAULTS:
        return None


class _Part(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""


class _Message(msgspec.Struct, frozen=True):
    content: list[_Part] = []


def _text_of(body: bytes) -> str:
    try:
        parts = msgspec.json.decode(body, type=_Message).content
    except wire.DECODE_FAULTS:
        return ""
    return "".join(part.text for part in parts if part.type == "text")
