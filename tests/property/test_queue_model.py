"""The store's queue against the model of `tests/support/queue_model.py`, under random calls in any order."""

import asyncio
import itertools
import os
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsm_runner.coordinator_server.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    RegistrationSuperseded,
    RunReassigned,
)
from fsm_runner.coordinator_server.matching import Capabilities, Demands, meets
from fsm_runner.coordinator_server.store.interface import (
    ClaimedRun,
    DemandClass,
    NewRun,
    NewSession,
    QueueOptions,
    Reporter,
    RunFilter,
    Store,
    new_id,
)
from fsm_runner.coordinator_server.store.sqlite.store import SqliteStore
from tests.support.queue_model import ModelRun, QueueModel

EXAMPLES = int(os.environ.get("QUEUE_MODEL_EXAMPLES", "50"))

T = TypeVar("T")

RUNNERS = ("rnr_a", "rnr_b", "rnr_c")
LIMITS = {"limited": 1}
"""`max_running` by agent."""
STATUSES = ("running", "completed", "failed", "stopped")
"""That a runner reports."""


def utc(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat()


def capabilities_of(runner_id: str, profile: str, tags: Iterable[str], *, require_matching_tags: bool) -> Capabilities:
    return Capabilities(
        runner_id=runner_id,
        hostname="host",
        project_dir="/p",
        executor_profile=profile,
        executor_type="autonomous",
        tags=frozenset(tags),
        require_matching_tags=require_matching_tags,
    )


Call = tuple[str, dict[str, Any]]


def call(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Call]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


numbers = st.integers(0, 11)
"""Choose one of several objects, whose number is not known."""
seldom = st.sampled_from([False, False, False, True])
seconds = st.sampled_from([1, 5, 30, 100])
optional_seconds = st.sampled_from([None, None, 1, 5, 30])
some_tags = st.sampled_from([(), (), ("x",), ("y",), ("x", "y")])
many_tags = st.sampled_from([("x", "y"), ("x", "y"), ("x",), ()])
demanded = st.builds(
    Demands,
    tags=some_tags,
    executor_profile=st.sampled_from([None, None, "p", "q"]),
    runner_id=st.sampled_from([None] * 12 + list(RUNNERS)),
)
submissions = call(
    "submit",
    demands=demanded,
    priority=st.sampled_from([None, None, -10, -1, 1, 10]),
    wait_s=optional_seconds,
    ttl_s=optional_seconds,
    key=st.sampled_from([None, None, None, "k1", "k2"]),
    digest=st.sampled_from([b"1", b"1", b"2"]),
    agent=st.sampled_from([None, None, "limited"]),
    retry_lost=st.integers(0, 2),
)
registrations = call(
    "register",
    capabilities=st.builds(
        capabilities_of, st.sampled_from(RUNNERS), st.sampled_from(["p", "q"]), many_tags, require_matching_tags=seldom
    ),
)
weighted_calls = [
    (6, submissions),
    (2, registrations),
    (8, call("claim", number=numbers, is_unfenced=st.booleans(), is_told=st.booleans())),
    (5, call("report_held", number=numbers, status=st.sampled_from(STATUSES))),
    (
        4,
        call(
            "report",
            number=numbers,
            sender=numbers,
            is_of_its_runner=st.booleans(),
            is_obsolete=seldom,
            is_unfenced=seldom,
            status=st.sampled_from(STATUSES),
        ),
    ),
    (4, call("report_ended", number=numbers, status=st.sampled_from(STATUSES))),
    (2, call("look_for_an_untold_claim", number=numbers)),
    (2, call("release", number=numbers)),
    (3, call("lose_runner", number=numbers)),
    (2, call("stop", number=numbers)),
    (2, call("tick", passed_s=seconds)),
    (2, call("let_time_pass", passed_s=seconds)),
    (1, call("prune", keep_s=st.sampled_from([5, 100]), most=st.integers(1, 20))),
    (1, call("reopen")),
]
calls = st.sampled_from([each for weight, each in weighted_calls for _ in range(weight)]).flatmap(lambda each: each)
sequences = st.builds(
    lambda *parts: list(itertools.chain(*parts)),
    st.lists(registrations, min_size=2, max_size=3),
    st.lists(submissions, min_size=3, max_size=6),
    st.lists(calls, min_size=40, max_size=60),
)


def picked(choices: Sequence[T], number: int) -> T | None:
    """Return None if there is no choice."""
    return choices[number % len(choices)] if choices else None


class Comparison:
    """Does the same to a store and to the model, and compares them after each step."""

    def __init__(self, folder: Path, loop: asyncio.Runner) -> None:
        self.file = folder / "store.sqlite"
        self.loop = loop
        self.model = QueueModel(now_s=1_800_000_000.0)
        self.offers: dict[str, Capabilities] = {}
        """What the registered runners offer."""
        self.obsolete: list[tuple[str, int]] = []
        """Registrations that another has replaced."""
        self.keys: dict[str, tuple[bytes, str]] = {}
        """The digest and the run by idempotency key."""
        self.classes: dict[int, DemandClass] = {}
        self.submitted = 0
        self.store = self._opened()

    def do(self, name: str, arguments: dict[str, Any]) -> None:
        getattr(self, name)(**arguments)
        self.compare()

    def close(self) -> None:
        self.done(self.store.aclose())

    def _opened(self) -> Store:
        store = SqliteStore(self.file, lambda _: None, lambda: self.model.now_s)
        self.done(store.open())
        return store

    def done(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.loop.run(awaited())

    # Runs.

    def submit(
        self,
        demands: Demands,
        priority: int | None,
        wait_s: int | None,
        ttl_s: int | None,
        key: str | None,
        digest: bytes,
        agent: str | None,
        retry_lost: int,
    ) -> None:
        now_s = self.model.now_s
        not_before_s = None if wait_s is None else now_s + wait_s
        session_id = new_id("ses")
        demand_class = DemandClass(demands=demands, limited_agent=agent)
        new = NewRun(
            session=NewSession(
                session_id=session_id, project_dir=None, agent_name=agent, parent_session_id=None, execution_mode="sync"
            ),
            parent_session_id=None,
            request={"type": "start_session", "agent_name": agent, "parameters": {}, "parent_session_id": None},
            demand_class=demand_class,
            options=QueueOptions(
                priority=priority,
                not_before=None if not_before_s is None else utc(not_before_s),
                queue_ttl_seconds=ttl_s,
                idempotency_key=key,
            ),
            retry_lost=retry_lost,
            digest=digest,
        )
        known = None if key is None else self.keys.get(key)
        if known is not None and known[0] != digest:
            with pytest.raises(Conflict):
                self.done(self.store.create_run(new))
            return
        created = self.done(self.store.create_run(new))
        if known is not None:
            first = self.model.run(known[1])
            assert first is not None
            expected = (first.run_id, first.session_id, first.status, None)
            assert (created.run_id, created.session_id, created.status, created.class_id) == expected
            return
        if key is not None:
            self.keys[key] = (digest, created.run_id)
        self.submitted += 1
        assert (created.class_id is None) is (wait_s is not None)
        if created.class_id is not None:
            self.classes[created.class_id] = demand_class
        self.model.runs.append(
            ModelRun(
                run_id=created.run_id,
                session_id=session_id,
                number=self.submitted,
                created_s=now_s,
                priority=priority or 0,
                demands=demands,
                limited_agent=agent,
                retry_lost=retry_lost,
                not_before_s=not_before_s,
                expires_s=None if ttl_s is None else (not_before_s or now_s) + ttl_s,
            )
        )

    def stop(self, number: int) -> None:
        run = picked(self.model.runs, number)
        if run is None:
            return
        if self.model.stop(run):
            stopped = self.done(self.store.stop_run(run.run_id))
            assert stopped.runner_id == (run.runner_id if run.status == "stopping" else None)
        else:
            with pytest.raises(InvalidRequest):
                self.done(self.store.stop_run(run.run_id))

    # Runners.

    def register(self, capabilities: Capabilities) -> None:
        runner_id = capabilities.runner_id
        registration = self.done(self.store.new_registration(runner_id))
        earlier = [*self.model.registrations.values(), *(number for _, number in self.obsolete)]
        assert registration > max(earlier, default=0)
        if runner_id in self.model.registrations:
            self.obsolete.append((runner_id, self.model.registrations[runner_id]))
        self.model.registrations[runner_id] = registration
        self.offers[runner_id] = capabilities
        stopping = [run.session_id for run in self.model.held_by(runner_id) if run.status == "stopping"]
        assert self.done(self.store.stopping_sessions(runner_id)) == stopping

    def claim(self, number: int, *, is_unfenced: bool, is_told: bool) -> None:
        runner_id = picked(sorted(self.offers), number)
        if runner_id is None:
            return
        claimed = self._claim(runner_id, is_fenced=not is_unfenced)
        if claimed is not None and is_told:
            self.done(self.store.note_told(claimed.run_id))
            self._run(claimed.run_id).is_told = True

    def _claim(self, runner_id: str, *, is_fenced: bool) -> ClaimedRun | None:
        capabilities = self.offers[runner_id]
        class_ids = [class_id for class_id, each in self.classes.items() if meets(capabilities, each.demands)]
        expected = self.model.first(capabilities, LIMITS)
        registration = self.model.registrations[runner_id] if is_fenced else None
        claimed = self.done(self.store.claim(runner_id, registration, class_ids, LIMITS))
        assert (claimed and claimed.run_id) == (expected and expected.run_id)
        if claimed is not None and expected is not None:
            self.model.claim(expected, runner_id, registration)
            assert (claimed.run["status"], claimed.run["attempt"]) == ("claimed", expected.attempt)
            others = [run for run in self.model.ready if run.demands == expected.demands]
            more = [run for run in others if run.limited_agent == expected.limited_agent]
            # True is no defect: the store need not know that the time of the other run is over.
            assert claimed.has_more or not more or expected.limited_agent is not None
        return claimed

    def look_for_an_untold_claim(self, number: int) -> None:
        runner_id = picked(sorted(self.offers), number)
        if runner_id is not None:
            expected = self.model.untold(runner_id)
            untold = self.done(self.store.untold_claim(runner_id))
            assert (untold and untold.run_id) == (expected and expected.run_id)

    def release(self, number: int) -> None:
        run = picked([run for run in self.model.runs if run.status == "claimed"], number)
        if run is not None:
            self.done(self.store.release(run.run_id))
            self.model.release(run)

    def lose_runner(self, number: int) -> None:
        """Its registration stays current in the database until its identity registers again."""
        runner_id = picked(sorted(self.offers), number)
        if runner_id is None:
            return
        closed = self.done(self.store.close_runner(runner_id, "lost"))
        held = self.model.held_by(runner_id)
        limited = {run.limited_agent for run in held if run.limited_agent is not None}
        assert closed.has_unpinned == bool(self.model.pinned_to(runner_id))
        requeued = self.model.close(runner_id)
        assert closed.requeued_sessions == [run.session_id for run in requeued]
        assert closed.limited_agents == limited
        if requeued or closed.has_unpinned:  # the class of a run that waited for its time may not be known yet
            self.classes |= self.done(self.store.tick())
            self.model.tick()
        for run in requeued:
            assert self.done(self.store.session_status(run.session_id)) == "pending"
        del self.offers[runner_id]

    def report_held(self, number: int, status: str) -> None:
        """As a runner without faults does."""
        run = picked([run for run in self.model.runs if run.is_held and run.runner_id is not None], number)
        if run is not None:
            self._report(run, *self._sender(run), status)

    def report_ended(self, number: int, status: str) -> None:
        """As a runner does whose reports arrive late or twice."""
        run = picked([run for run in self.model.runs if not run.is_open and run.runner_id is not None], number)
        if run is not None:
            self._report(run, *self._sender(run), status)

    def report(
        self, number: int, sender: int, status: str, *, is_of_its_runner: bool, is_obsolete: bool, is_unfenced: bool
    ) -> None:
        """From the runner that has the run or another one, of this registration or an earlier one, once or again."""
        run = picked(self.model.runs, number)
        senders = self.obsolete if is_obsolete else sorted(self.model.registrations.items())
        if run is not None and is_of_its_runner:
            senders = [each for each in senders if each[0] == run.runner_id] or senders
        known = picked(senders, sender)
        if run is None or known is None:
            return
        self._report(run, known[0], None if is_unfenced else known[1], status)

    def _sender(self, run: ModelRun) -> tuple[str, int]:
        assert run.runner_id is not None
        return run.runner_id, self.model.registrations[run.runner_id]

    def _report(self, run: ModelRun, runner_id: str, registration: int | None, status: str) -> None:
        expected = self.model.report(run.run_id, runner_id, registration, status)
        reporter = Reporter(runner_id=runner_id, registration=registration)
        calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "running": lambda: self.store.report_started(run.run_id, reporter),
            "completed": lambda: self.store.report_completed(run.run_id, reporter, "finished"),
            "failed": lambda: self.store.report_failed(run.run_id, reporter, "it broke"),
            "stopped": lambda: self.store.report_stopped(run.run_id, reporter, "SIGTERM"),
        }
        refused: str | None = None
        try:
            self.done(calls[status]())
        except NotFound:
            refused = "not_found"
        except RunReassigned:
            refused = "run_reassigned"
        except RegistrationSuperseded:
            refused = "registration_superseded"
        assert refused == expected

    # Time and restarts.

    def tick(self, passed_s: int) -> None:
        self.model.now_s += passed_s
        self.model.tick()
        self.classes |= self.done(self.store.tick())

    def let_time_pass(self, passed_s: int) -> None:
        self.model.now_s += passed_s

    def prune(self, keep_s: int, most: int) -> None:
        keep_s_exact = keep_s - 0.5
        while self.done(self.store.prune(keep_s_exact, most)):
            pass
        gone = {run.run_id for run in self.model.runs}
        self.model.prune(keep_s_exact)
        gone -= {run.run_id for run in self.model.runs}
        for run_id in gone:
            with pytest.raises(NotFound):
                self.done(self.store.run(run_id))
        self.keys = {key: known for key, known in self.keys.items() if known[1] not in gone}

    def reopen(self) -> None:
        self.done(self.store.aclose())
        self.store = self._opened()

    # What always holds.

    def compare(self) -> None:
        listed = self.done(self.store.runs(RunFilter(), None)).items
        shown = {run["run_id"]: (run["status"], run["runner_id"], run["attempt"]) for run in listed}
        assert shown == {run.run_id: run.shown for run in self.model.runs}
        entries = self.done(self.store.queue({}))
        assert sum(entry.pending for entry in entries) == len(self.model.ready)
        counted = sum(entry.claimed + entry.running for entry in entries)
        assert counted == sum(run.is_held for run in self.model.runs)

    def finish(self) -> None:
        """Bring every run to its end: a runner that meets all demands claims those that wait."""
        self.tick(1_000)
        for run in self.model.runs:
            if run.is_held and run.runner_id is None:  # only a report without a claim can do this
                self._report(run, RUNNERS[0], None, "completed")
            elif run.is_held:
                self._report(run, *self._sender(run), "completed")
        for runner_id, profile in itertools.product(RUNNERS, ("p", "q")):
            self.register(capabilities_of(runner_id, profile, ("x", "y"), require_matching_tags=False))
            while (claimed := self._claim(runner_id, is_fenced=True)) is not None:
                run = self._run(claimed.run_id)
                self._report(run, *self._sender(run), "completed")
        self.compare()
        assert not any(run.is_open for run in self.model.runs)

    def _run(self, run_id: str) -> ModelRun:
        run = self.model.run(run_id)
        assert run is not None
        return run


@settings(max_examples=EXAMPLES)
@given(sequences)
def test_the_queue_does_what_the_model_does(chosen: list[Call]) -> None:
    with tempfile.TemporaryDirectory(prefix="fsm-runner-queue-") as folder, asyncio.Runner() as loop:
        comparison = Comparison(Path(folder), loop)
        try:
            for name, arguments in chosen:
                comparison.do(name, arguments)
            comparison.finish()
        finally:
            comparison.close()
