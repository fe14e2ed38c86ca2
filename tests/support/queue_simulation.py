"""A coordinator and runners whose every step a test chooses: no sockets, no threads, no waiting.

The coordinator is the real one, with its HTTP layer and a database. `SteppedLoop` decides when the database does a
request, and when its result arrives. The simulated runners speak HTTP by ASGI. Nothing happens by time: there is no
tick unless the test asks for one.
"""

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message

from fsm_runner.coordinator_server.agents import CatalogAgent
from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.event_bus import EventBus
from fsm_runner.coordinator_server.http.app import build_app
from fsm_runner.coordinator_server.matching import Capabilities, Demands, meets
from fsm_runner.coordinator_server.store.sqlite.store import SqliteStore
from fsm_runner.coordinator_server.timings import Timings
from tests.support.virtual_time import VirtualTimeLoop

HOST = "host-{}"
OWNED = {"name": "owned", "type": "autonomous", "command": "", "retry_lost": 1}
"""The agent that runners bring."""
AGENTS: list[dict[str, Any]] = [
    {"name": "limited", "type": "autonomous", "max_running": 1},
    {"name": "both", "type": "autonomous", "max_running": 2, "retry_lost": 2},
    {"name": "retried", "type": "autonomous", "retry_lost": 1},
]
LIMITS = {agent["name"]: agent["max_running"] for agent in AGENTS if "max_running" in agent}
RETRIES = {agent["name"]: agent["retry_lost"] for agent in (*AGENTS, OWNED) if "retry_lost" in agent}
POLL_TIMEOUT_S = 30
REMOVED_AFTER_S = Timings().removed_after_s


class SteppedLoop(VirtualTimeLoop):
    """Work for a thread waits for `commit`, and its result then waits for `deliver`; both in order."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()

    def run_in_executor(  # type: ignore[override] # as in the base class
        self, executor: Any, work: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        self._waiting.append((future, lambda: work(*arguments)))
        return future

    def commit(self) -> bool:
        """Do the next work. Return whether there was any."""
        if not self._waiting:
            return False
        future, work = self._waiting.popleft()
        if not future.cancelled():
            try:
                self._done.append((future, work(), None))
            except Exception as error:  # noqa: BLE001 - the awaiting task handles it
                self._done.append((future, None, error))
        return True

    def deliver(self) -> bool:
        """Hand over the next result. Return whether there was any."""
        if not self._done:
            return False
        future, result, error = self._done.popleft()
        if future.cancelled():
            return True
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
        return True

    @property
    def has_callbacks(self) -> bool:
        return bool(self._ready)  # type: ignore[attr-defined] # of asyncio's loop

    def turn(self) -> None:
        """Execute the callbacks that are ready, once."""
        self.run_until_complete(asyncio.sleep(0))

    def drain(self) -> None:
        """Go on until every task waits for something that only the test can do."""
        while True:
            while self.has_callbacks:
                self.turn()
            if not (self.commit() or self.deliver()):
                return
            self.deliver()

    def pass_deadlines(self) -> None:
        """Let the time of all held polls be over."""
        self.run_until_complete(asyncio.sleep(POLL_TIMEOUT_S))

    def forget(self) -> None:
        """Drop work and results, as the death of the process does."""
        self._waiting.clear()
        self._done.clear()


class Exchange:
    """A request, and its response once there is one."""

    def __init__(self, loop: SteppedLoop, app: ASGIApp, method: str, target: str, body: Any, **headers: str) -> None:
        path, _, query = target.partition("?")
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }
        self.status: int | None = None
        """None: no response has arrived."""
        self.is_unnoticed_loss = False
        """Whether the connection is broken, and the coordinator does not know it yet."""
        self._content = b"" if body is None else msgspec.json.encode(body)
        self._received = bytearray()
        self._has_sent = False
        self._hung_up = asyncio.Event()
        self.task = loop.create_task(self._serve(app))

    @property
    def answer(self) -> Any:
        return msgspec.json.decode(self._received) if self._received else None

    def hang_up(self) -> None:
        self._hung_up.set()

    async def _serve(self, app: ASGIApp) -> None:
        await app(self.scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._has_sent:
            self._has_sent = True
            return {"type": "http.request", "body": self._content, "more_body": False}
        await self._hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._hung_up.is_set() or self.is_unnoticed_loss:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self._received += message["body"]


class SimulatedRunner:
    def __init__(
        self, number: int, profile: str, tags: tuple[str, ...], *, is_fenced: bool, brings_agent: bool
    ) -> None:
        self.number = number
        self.profile = profile
        self.tags = tags
        self.is_fenced = is_fenced
        self.agents = [OWNED] if brings_agent else []
        self.runner_id: str | None = None
        self.is_registered = False
        """As far as it knows."""
        self.registration: int | None = None
        self.poll: Exchange | None = None
        self.runs: dict[str, int] = {}
        """The attempt by run that it executes."""
        self.to_stop: set[str] = set()
        self.ends: dict[tuple[str, int], str] = {}
        """The end of each attempt: a report without a response is repeated."""
        self.reporting: set[str] = set()
        """The runs about which a report is on its way."""

    @property
    def fields(self) -> dict[str, Any]:
        return {
            "hostname": HOST.format(self.number),
            "project_dir": "/p",
            "executor_profile": self.profile,
            "executor": {"type": "autonomous", "command": "c"},
            "tags": list(self.tags),
            "agents": self.agents,
        }

    @property
    def headers(self) -> dict[str, str]:
        return {"x_runner_registration": str(self.registration)} if self.is_fenced and self.is_registered else {}

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            runner_id=self.runner_id or "",
            hostname=HOST.format(self.number),
            project_dir="/p",
            executor_profile=self.profile,
            executor_type="autonomous",
            tags=frozenset(self.tags),
            owned_agents=frozenset(str(agent["name"]) for agent in self.agents),
        )

    @property
    def is_waiting(self) -> bool:
        return self.poll is not None and self.poll.status is None and not self.poll.task.done()


class Row(msgspec.Struct, frozen=True):
    """A run in the database."""

    run_id: str
    session_id: str
    status: str
    runner_id: str | None
    attempt: int
    rank: int
    seq: int
    waits_until_s: float | None
    expires_s: float | None
    is_fenced: bool

    @property
    def is_held(self) -> bool:
        return self.status in ("claimed", "running", "stopping")

    @property
    def is_open(self) -> bool:
        return self.is_held or self.status == "pending"


class Simulation:
    def __init__(self, file: Path, runners: list[SimulatedRunner]) -> None:
        self.loop = SteppedLoop()
        self.file = file
        self.runners = runners
        self.wall_s = 1_800_000_000.0
        self.clock_s = 0.0
        self.demanded: dict[str, tuple[Demands, str | None]] = {}
        """What each run demands, and its agent."""
        self.delivered: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
        """The runners that got an attempt of a run."""
        self.accepted: dict[str, str] = {}
        """The end of each run that the coordinator has accepted from its runner."""
        self.exchanges: list[tuple[Exchange, Callable[[Exchange], None]]] = []
        self._open()

    # The coordinator.

    def _open(self) -> None:
        bus = EventBus()
        self.store = SqliteStore(self.file, bus.publish, lambda: self.wall_s)
        catalog = [CatalogAgent(agent) for agent in AGENTS]
        timings = Timings(poll_timeout_s=POLL_TIMEOUT_S)
        self.coordinator = Coordinator(self.store, bus, timings, catalog, {}, lambda: self.clock_s)

        async def accept(*_: Any) -> None:
            """Validation would start a process."""

        self.coordinator.validator.validate = accept  # type: ignore[assignment,method-assign]
        self.app = build_app(self.coordinator, None, None)
        self._finish(self.coordinator.open())

    def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self.loop.drain()
        task.result()

    def restart(self, *, is_killed: bool) -> None:
        """Replace the coordinator by a new one with the same database."""
        if is_killed:
            self.loop.forget()
        else:
            self.coordinator.end_streams()
            self.loop.drain()
            self.collect()
        pending = [exchange for exchange, _ in self.exchanges if not exchange.task.done()]
        for exchange in pending:
            exchange.hang_up()
            exchange.task.cancel()
        self.loop.drain()
        self.loop.forget()
        self.exchanges.clear()
        for runner in self.runners:
            runner.poll = None
            runner.reporting.clear()
        self._finish(self.coordinator.aclose())
        self._open()

    def close(self) -> None:
        self.restart(is_killed=True)
        self._finish(self.coordinator.aclose())
        self.loop.close()

    def tick(self) -> None:
        self.wall_s += 40
        self.do_inside(self.coordinator.queue.tick())

    def do_inside(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task of the coordinator that no request causes."""
        self._inside = self.loop.create_task(work)

    # Requests.

    def send(
        self, done: Callable[[Exchange], None], method: str, target: str, body: Any = None, **headers: str
    ) -> Exchange:
        exchange = Exchange(self.loop, self.app, method, target, body, **headers)
        self.exchanges.append((exchange, done))
        return exchange

    def collect(self) -> None:
        """Let the clients read the responses that have arrived."""
        finished = [each for each in self.exchanges if each[0].task.done()]
        self.exchanges = [each for each in self.exchanges if not each[0].task.done()]
        for exchange, done in finished:
            exchange.task.result()  # a defect of the coordinator
            assert exchange.status is None or exchange.status < 500, exchange.answer
            done(exchange)

    def settle(self) -> None:
        self.loop.drain()
        self.collect()

    def submit(self, demands: Demands, agent: str | None, **options: Any) -> None:
        body = {
            "type": "start_session",
            "agent_name": agent,
            "parameters": {"prompt": "hi"},
            "additional_demands": msgspec.to_builtins(demands),
            **options,
        }

        def done(exchange: Exchange) -> None:
            if exchange.status == 404 and agent == OWNED["name"]:  # no runner has it
                return
            assert exchange.status == 201, exchange.answer

        self.send(done, "POST", "/runs", body)

    def stop(self, run_id: str) -> None:
        self.send(lambda _: None, "POST", f"/runs/{run_id}/stop")

    def register(self, runner: SimulatedRunner) -> None:
        def done(exchange: Exchange) -> None:
            if exchange.status != 200:  # another runner has an agent of this name
                assert exchange.status == 409, exchange.answer
                return
            runner.is_registered = True
            runner.runner_id, runner.registration = exchange.answer["runner_id"], exchange.answer["registration"]

        if not runner.is_registered:
            self.send(done, "POST", "/runner/register", runner.fields)

    def poll(self, runner: SimulatedRunner) -> None:
        if not runner.is_registered or runner.is_waiting:
            return

        def done(exchange: Exchange) -> None:
            if runner.poll is exchange:
                runner.poll = None
                if exchange.status is not None:
                    self._take(runner, exchange)

        target = f"/runner/runs?runner_id={runner.runner_id}"
        runner.poll = self.send(done, "GET", target, **runner.headers)

    def _take(self, runner: SimulatedRunner, exchange: Exchange) -> None:
        if exchange.status == 401 or (exchange.answer or {}).get("deregistered"):
            runner.is_registered = False
        elif exchange.status == 200 and (run := exchange.answer.get("run")):
            runner.runs[run["run_id"]] = run["attempt"]
            holders = self.delivered[run["run_id"], run["attempt"]]
            holders.add(runner.number)
            assert len(holders) == 1, f"two runners have {run['run_id']}"
            allowed = RETRIES.get(run["agent_name"], 0)
            assert run["attempt"] <= 1 + allowed, f"{run['run_id']} is attempted too often"
        elif exchange.status == 200 and (stops := exchange.answer.get("stop_sessions")):
            runner.to_stop.update(stops)

    def hang_up(self, runner: SimulatedRunner) -> None:
        """End the connection of its poll: the coordinator notices it."""
        if runner.poll is not None:
            runner.poll.hang_up()
            runner.poll = None

    def break_connection(self, runner: SimulatedRunner) -> None:
        """Lose the response of its poll. The coordinator notices only the next poll."""
        if runner.poll is not None:
            runner.poll.is_unnoticed_loss = True
            runner.poll = None

    def report(self, runner: SimulatedRunner, run_id: str, kind: str) -> None:
        """As a runner does: not without a registration, and one report after another."""
        if not runner.is_registered or run_id in runner.reporting:
            return
        runner.reporting.add(run_id)
        attempt = runner.runs[run_id]
        if kind != "started":
            runner.ends.setdefault((run_id, attempt), kind)
        kind = runner.ends.get((run_id, attempt), kind)
        fields = {"completed": {"status": "success"}, "failed": {"error": "it broke"}, "stopped": {"signal": "SIGTERM"}}
        headers = {**runner.headers, **({"x_run_attempt": str(attempt)} if runner.is_fenced else {})}

        def done(exchange: Exchange) -> None:
            runner.reporting.discard(run_id)
            if exchange.status == 401:
                runner.is_registered = False
            elif exchange.status == 409:
                assert exchange.answer["detail"]["error"] == "run_reassigned", exchange.answer
                if runner.runs.get(run_id) == attempt:
                    del runner.runs[run_id]
            elif exchange.status == 200 and kind != "started":
                assert self.accepted.setdefault(run_id, kind) == kind, "a run has two ends"
                runner.runs.pop(run_id, None)

        body = {"runner_id": runner.runner_id, **fields.get(kind, {})}
        self.send(done, "POST", f"/runner/runs/{run_id}/{kind}", body, **headers)

    def leave(self, runner: SimulatedRunner, *, by_itself: bool) -> None:
        if not runner.is_registered:
            return

        def done(exchange: Exchange) -> None:
            if by_itself:
                runner.is_registered = False

        self.send(done, "DELETE", f"/runners/{runner.runner_id}?self={by_itself}".lower())

    def fall_silent(self, runner: SimulatedRunner) -> None:
        """Let the time pass after which this runner is removed."""
        self.clock_s += REMOVED_AFTER_S + 1
        for each in self.coordinator.registry:
            if each.runner_id != runner.runner_id:
                self.coordinator.registry.record_heartbeat(each)
        self.do_inside(self.coordinator.runners.expire())

    # What the database has.

    def rows(self) -> list[Row]:
        tables = self.store._worker._tables
        assert tables is not None
        columns = ", ".join(Row.__struct_fields__)
        found = tables.database.execute(f"SELECT {columns} FROM runs ORDER BY rank, seq").fetchall()
        return [Row(*row) for row in found]

    def claimable(self, runner: SimulatedRunner) -> Iterator[Row]:
        """Yield the runs that the runner may claim, the first one first."""
        rows = self.rows()
        for row in rows:
            demands, agent = self.demands_of(row)
            held = sum(each.is_held and self.demands_of(each)[1] == agent for each in rows)
            is_full = agent in LIMITS and held >= LIMITS[agent]
            is_over = row.expires_s is not None and row.expires_s <= self.wall_s
            is_ready = row.status == "pending" and row.waits_until_s is None
            if is_ready and not is_full and not is_over and meets(runner.capabilities, demands):
                yield row

    def demands_of(self, row: Row) -> tuple[Demands, str | None]:
        if row.run_id not in self.demanded:
            tables = self.store._worker._tables
            assert tables is not None
            found = tables.database.row("SELECT class_id, agent_name FROM runs WHERE run_id = ?", (row.run_id,))
            assert found is not None
            self.demanded[row.run_id] = (tables.classes.get(found["class_id"]).demands, found["agent_name"])
        return self.demanded[row.run_id]

    def check(self) -> None:
        """Check what holds when every task waits. There was no tick: a wake-up that is lost stays lost."""
        rows = self.rows()
        for runner in self.runners:
            if runner.is_waiting and self.is_known(runner):
                missed = next(self.claimable(runner), None)
                assert missed is None, f"runner {runner.number} waits, although it may claim {missed}"
        for agent, limit in LIMITS.items():
            # A runner without a number may also start a run that has failed because the runner was lost.
            held = [row for row in rows if row.is_held and row.is_fenced and self.demands_of(row)[1] == agent]
            assert len(held) <= limit, f"{agent} runs more than {limit} times: {held}"
        for row in rows:
            if row.run_id in self.accepted:
                assert row.status == self.accepted[row.run_id], f"{row} had another end: {self.accepted[row.run_id]}"

    def is_known(self, runner: SimulatedRunner) -> bool:
        """Return whether the coordinator gives runs to the runner."""
        known = self.coordinator.registry.get(runner.runner_id or "")
        return known is not None and known.accepts_runs

    # The end.

    def finish(self) -> None:
        """Bring every run to its end. Raises AssertionError if one has none."""
        self.settle()
        self.check()
        numbers = itertools.count(100)
        fields = {"is_fenced": True, "brings_agent": True}
        self.runners += [SimulatedRunner(next(numbers), "p", ("x", "y"), **fields)]
        self.runners += [SimulatedRunner(next(numbers), "q", ("x", "y"), is_fenced=True, brings_agent=False)]
        for _ in range(200):
            for runner in self.runners:
                self.register(runner)
            self.tick()
            self.settle()
            for runner in self.runners:
                self.poll(runner)
            self.settle()
            self.check()
            for runner in self.runners:
                self._adopt(runner)
                for run_id in list(runner.runs):
                    self.report(runner, run_id, "completed")
            self.settle()
            if not any(row.is_open for row in self.rows()):
                self.check()
                return
        raise AssertionError(f"these runs do not end: {[row for row in self.rows() if row.is_open]}")

    def _adopt(self, runner: SimulatedRunner) -> None:
        """As a runner does that lists its claimed runs, since a response may have been lost."""
        for row in self.rows():
            if row.is_held and row.runner_id == runner.runner_id:
                runner.runs.setdefault(row.run_id, row.attempt)
