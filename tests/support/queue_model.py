"""A simple model of the coordinator's queue: a list of runs, which a claim sorts and filters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from fsm_runner.coordinator_server.matching import Capabilities, Demands, meets
from fsm_runner.protocol.statuses import HELD_RUN_STATUSES, OPEN_RUN_STATUSES

Refusal = Literal["not_found", "run_reassigned", "registration_superseded"]

PRIORITY_STEP_S = 60


@dataclass
class ModelRun:
    run_id: str
    session_id: str
    number: int
    created_s: float
    priority: int
    demands: Demands
    limited_agent: str | None
    retry_lost: int
    not_before_s: float | None
    """None: its time has come, or it has none."""
    expires_s: float | None
    status: str = "pending"
    runner_id: str | None = None
    is_fenced: bool = False
    is_told: bool = False
    is_lost: bool = False
    is_started: bool = False
    attempt: int = 1
    ended_s: float = 0

    @property
    def place(self) -> tuple[float, int]:
        return self.created_s - PRIORITY_STEP_S * self.priority, self.number

    @property
    def is_held(self) -> bool:
        return self.status in HELD_RUN_STATUSES

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_RUN_STATUSES

    @property
    def shown(self) -> tuple[str, str | None, int]:
        return self.status, self.runner_id, self.attempt

    def end(self, status: str, now_s: float) -> None:
        self.status, self.ended_s, self.is_lost = status, now_s, False


@dataclass
class QueueModel:
    """`now_s` is the time of the coordinator."""

    now_s: float
    runs: list[ModelRun] = field(default_factory=list)
    registrations: dict[str, int] = field(default_factory=dict)
    """The current one of each runner."""

    def run(self, run_id: str) -> ModelRun | None:
        return next((run for run in self.runs if run.run_id == run_id), None)

    def held_by(self, runner_id: str) -> list[ModelRun]:
        return [run for run in self.runs if run.is_held and run.runner_id == runner_id]

    def held_of(self, agent: str) -> int:
        return sum(run.is_held and run.limited_agent == agent for run in self.runs)

    @property
    def ready(self) -> list[ModelRun]:
        """The runs that the right runner could claim, but for `max_running`, in their order."""
        pending = [run for run in self.runs if run.status == "pending" and run.not_before_s is None]
        return sorted(pending, key=lambda run: run.place)

    def first(self, capabilities: Capabilities, max_running: Mapping[str, int]) -> ModelRun | None:
        """The run that a claim has to return."""
        for run in self.ready:
            is_expired = run.expires_s is not None and run.expires_s <= self.now_s
            agent = run.limited_agent
            is_full = agent in max_running and agent is not None and self.held_of(agent) >= max_running[agent]
            if not is_expired and not is_full and meets(capabilities, run.demands):
                return run
        return None

    def claim(self, run: ModelRun, runner_id: str, registration: int | None) -> None:
        run.status, run.runner_id, run.is_fenced, run.is_told = "claimed", runner_id, registration is not None, False

    def untold(self, runner_id: str) -> ModelRun | None:
        claimed = (run for run in self.held_by(runner_id) if run.status == "claimed")
        return next((run for run in claimed if run.is_fenced and not run.is_told), None)

    def release(self, run: ModelRun) -> None:
        if run.status == "claimed":
            run.status, run.runner_id, run.is_fenced = "pending", None, False

    def tick(self) -> None:
        for run in self.runs:
            if run.status == "pending" and run.expires_s is not None and run.expires_s <= self.now_s:
                run.end("failed", self.now_s)
            elif run.not_before_s is not None and run.not_before_s <= self.now_s:
                run.not_before_s = None

    def stop(self, run: ModelRun) -> bool:
        """Return whether the run can be stopped."""
        if run.status == "pending":
            run.end("stopped", self.now_s)
        elif run.status in ("claimed", "running"):
            run.status = "stopping"
        else:
            return False
        return True

    def close(self, runner_id: str) -> list[ModelRun]:
        """Remove a runner, and return the runs that are queued again."""
        requeued = []
        for run in self.held_by(runner_id):
            has_retry = run.attempt <= run.retry_lost and run.demands.runner_id is None
            if run.is_fenced and has_retry and run.status != "stopping":
                run.status, run.runner_id, run.is_fenced, run.is_started = "pending", None, False, False
                run.attempt, run.expires_s = run.attempt + 1, None
                requeued.append(run)
            else:
                run.end("failed", self.now_s)
                run.is_lost = True
        for run in self.pinned_to(runner_id):
            run.demands = msgspec.structs.replace(run.demands, runner_id=None)
        return requeued

    def pinned_to(self, runner_id: str) -> list[ModelRun]:
        """Return the pending runs that only this runner can claim."""
        return [run for run in self.runs if run.status == "pending" and run.demands.runner_id == runner_id]

    def report(self, run_id: str, runner_id: str, registration: int | None, status: str) -> Refusal | None:
        """`status`: running, or the end of the run. Returns why the report is refused; None: it is not."""
        run = self.run(run_id)
        if run is None:
            return "not_found"
        if registration is None:
            if run.is_held and run.runner_id not in (None, runner_id):
                return "run_reassigned"
            # A deployed runner may report anything at any time.
            self._apply(run, runner_id, status)
            return None
        if registration != self.registrations.get(runner_id):
            return "registration_superseded"
        if run.runner_id != runner_id:
            return "run_reassigned"
        if status == "running":
            if run.is_held and not run.is_started:
                run.is_started = True
                run.status = "running" if run.status == "claimed" else run.status
        elif run.is_held or run.is_lost:
            run.end(status, self.now_s)
        return None

    def _apply(self, run: ModelRun, runner_id: str, status: str) -> None:
        if status == "running":
            if run.runner_id is None:
                run.runner_id, run.is_fenced = runner_id, False
            run.status, run.is_started = "running", True
        else:
            run.end(status, self.now_s)

    def prune(self, keep_s: float) -> None:
        """Each run has a session of its own."""
        self.runs = [run for run in self.runs if run.is_open or run.ended_s > self.now_s - keep_s]
