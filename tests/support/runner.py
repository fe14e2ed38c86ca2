"""A real runner in the test's event loop, with a real coordinator and a proxy between the two."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from fsm_runner.app.build import assembled_runner
from fsm_runner.config.profiles import LoadedProfile
from fsm_runner.config.settings import RunnerConfig
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.policy import Policies
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.machine.engine import Step
from fsm_runner.protocol.wire import JsonObject, Run, RunCreated, RunRequest
from fsm_runner.runtime.actors.run_context import Observer
from fsm_runner.runtime.actors.runner import RunnerActor
from fsm_runner.util.retry import RetryPolicy
from fsm_runner.workflow.file import LoadedWorkflow
from tests.support.fifo import Fifo
from tests.support.home import make_home
from tests.support.proxy import FaultProxy
from tests.support.watch import PATIENCE_S, Watch

_QUICK = RetryPolicy(base_s=0.01, cap_s=0.05)
FAST = Policies(
    register=_QUICK,
    registration_conflict=RetryPolicy(base_s=0.01, cap_s=0.05, limit_s=0.5),
    poll=_QUICK,
    heartbeat=_QUICK,
    delivery=_QUICK,
    script=RetryPolicy(base_s=0.01, cap_s=0.05, limit_s=5),
    token=_QUICK,
    deregister=RetryPolicy(base_s=0.01, cap_s=0.05, limit_s=2),
)


class RunningRunner:
    """A runner at work, and what it was seen to do."""

    def __init__(self, actor: RunnerActor, config: RunnerConfig) -> None:
        self.actor = actor
        self.config = config
        self.path = [actor.state]
        """The runner's own states, in order."""
        self._watch = Watch(lambda: f"the runner went {' → '.join(self.path)}")
        self._take_step = actor.on_step
        self.living: asyncio.Task[str] = asyncio.create_task(self._live(), name="runner under test")

    async def _live(self) -> str:
        # The one place where a test can see the runner's states in order; production code has no use for it.
        self.actor.on_step = self._on_step  # type: ignore[method-assign]  # of this one runner
        return await self.actor.live()

    def _on_step(self, step: Step, payload: object) -> None:
        self._take_step(step, payload)
        self.path.append(step.target)
        self._watch.changed()

    async def goes_through(self, *states: str) -> None:
        """Return when the runner has been in these states, in this order, whatever came between them."""
        await self._watch.until(lambda: _in_order(states, self.path), f"the runner in {' → '.join(states)}")

    async def drain(self) -> str:
        self.actor.post("drain_requested", "the test is over")
        return await self.ended()

    async def come_to_its_end(self) -> None:
        """However it ends. A runner that hangs fails the test, and does not make it hang."""
        ended, _ = await asyncio.wait([self.living], timeout=PATIENCE_S)
        if not ended:
            self.living.cancel()
            await asyncio.wait([self.living])
            raise AssertionError(f"the runner hangs: it went {' → '.join(self.path)}")

    async def ended(self) -> str:
        """The final state, once it is there."""
        return await asyncio.wait_for(asyncio.shield(self.living), PATIENCE_S)


class System(Observer):
    """A coordinator, a proxy before it, and runners that talk to that."""

    def __init__(self, folder: Path, server: CoordinatorServer, proxy: FaultProxy, api: CoordinatorApi) -> None:
        self.folder = folder
        self.server = server
        self.proxy = proxy
        self.api = api
        self.states: defaultdict[str, list[str]] = defaultdict(list)
        """The states of each run at its runner, by run id."""
        self.details: defaultdict[str, list[str]] = defaultdict(list)
        """The status details of each run, by run id."""
        self._watch = Watch(lambda: "\n".join(f"{run}: {' → '.join(states)}" for run, states in self.states.items()))
        self._ended: set[str] = set()

    @asynccontextmanager
    async def running(
        self,
        profile: LoadedProfile,
        policies: Policies = FAST,
        *,
        registers: bool = True,
        workflow: LoadedWorkflow | None = None,
        **overrides: Any,
    ) -> AsyncIterator[RunningRunner]:
        """A runner, registered unless it is not expected to. It is made to end at the end.

        `workflow`: that of all runs. `overrides` are fields of `RunnerConfig`.
        """
        project_dir = self.folder / "project"
        project_dir.mkdir(exist_ok=True)
        config = RunnerConfig(project_dir=project_dir, **{"grace_period_s": 0.1, **overrides})
        assembled = assembled_runner(
            config, profile, self.proxy.url, observer=self, policies=policies, workflow=workflow
        )
        async with assembled as actor:
            runner = RunningRunner(actor, config)
            try:
                if registers:
                    await runner.goes_through("online")
                yield runner
            finally:
                self.proxy.heal()
                runner.actor.post("stop_now_requested", "the test is over")
                await runner.come_to_its_end()
            await runner.living

    async def submit(self, agent: str, **parameters: Any) -> RunCreated:
        return await self.api.create_run(RunRequest(type="start_session", agent_name=agent, parameters=parameters))

    async def submit_prompt(self, prompt: str) -> RunCreated:
        return await self.api.create_run(RunRequest(type="start_session", parameters={"prompt": prompt}))

    async def submit_in(self, project_dir: str, agent: str, **parameters: Any) -> RunCreated:
        return await self.api.create_run(
            RunRequest(type="start_session", agent_name=agent, parameters=parameters, project_dir=project_dir)
        )

    async def state(self, run: RunCreated, state: str) -> None:
        """Return when the run is or was in this state at its runner."""
        await self._watch.until(lambda: state in self.states[run.run_id], f"{run.run_id} in {state}")

    async def detail(self, run: RunCreated, detail: str, count: int = 1) -> None:
        """Return when the run has had a status detail that begins with this for the `count`th time."""

        def found() -> int:
            return sum(each.startswith(detail) for each in self.details[run.run_id])

        await self._watch.until(lambda: found() >= count, f"{detail!r} {count} times as a detail of {run.run_id}")

    async def end(self, run: RunCreated) -> Run:
        """The run as the coordinator has it when it has ended at its runner."""
        await self._watch.until(lambda: run.run_id in self._ended, f"the end of {run.run_id}")
        return await self.api.run(run.run_id)

    async def result(self, run: RunCreated) -> JsonObject | None:
        data: JsonObject | None = (await self.api.session_result(run.session_id)).result_data
        return data

    async def completes(self, agent: str = "say", **parameters: Any) -> RunCreated:
        """Submit one more run and see it complete: the runner is well."""
        run = await self.submit(agent, **(parameters or {"text": "still here"}))
        assert (await self.end(run)).status == "completed"
        return run

    async def runners(self) -> list[JsonObject]:
        """The runners that the coordinator knows."""
        async with httpx.AsyncClient(base_url=self.server.url, trust_env=False) as http:
            shown: list[JsonObject] = (await http.get("/runners")).json()["runners"]
            return shown

    def reports(self, run: RunCreated) -> list[str]:
        """Return the kinds of acknowledged reports of a run, in order."""
        path = f"/runner/runs/{run.run_id}/(.*)"
        return [call.path.rsplit("/")[-1] for call in self.proxy.acknowledged("POST", path)]

    def entered(self, run: Run, state: str, *, final: bool) -> None:
        self.states[run.run_id].append(state)
        if final:
            self._ended.add(run.run_id)
        self._watch.changed()

    def reported(self, run: Run, state: str, detail: str) -> None:
        self.details[run.run_id].append(detail)
        self._watch.changed()


@asynccontextmanager
async def open_system(folder: Path, timings: Timings | None = None, **server_fields: Any) -> AsyncIterator[System]:
    """A coordinator and a proxy, without a runner yet."""
    async with (
        CoordinatorServer(port=0, timings=timings, **server_fields) as server,
        FaultProxy(server.url) as proxy,
        CoordinatorApi(server.url) as api,
    ):
        yield System(folder, server, proxy, api)


class Waiter:
    """The pipes of one run of the agents that wait: `started` tells its process id, `gate` lets it go on."""

    def __init__(self, started: Fifo, gate: Fifo) -> None:
        self.started = started
        self.gate = gate

    @property
    def parameters(self) -> dict[str, str]:
        return {"started": str(self.started.path), "gate": str(self.gate.path)}


@asynccontextmanager
async def waiter(folder: Path, name: str = "waiter") -> AsyncIterator[Waiter]:
    async with AsyncExitStack() as stack:
        started = await stack.enter_async_context(Fifo(folder / f"{name}.started"))
        gate = await stack.enter_async_context(Fifo(folder / f"{name}.gate"))
        yield Waiter(started, gate)


@asynccontextmanager
async def running(folder: Path, **overrides: Any) -> AsyncIterator[tuple[System, RunningRunner]]:
    """A coordinator, a proxy and one runner that has registered."""
    async with open_system(folder) as system, system.running(make_home(folder / "home"), **overrides) as runner:
        yield system, runner


def _in_order(wanted: tuple[str, ...], seen: list[str]) -> bool:
    left = iter(seen)
    return all(state in left for state in wanted)
