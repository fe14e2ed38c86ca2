"""A coordinator that answers a real runner with anything at all.

What the protocol grants a coordinator, hostile or not: to name a run's agent, parameters and project directory; to have
scripts installed in, and removed from, `scripts/` of the runner's own project directory, and run; to stop runs; to send
the runner away. A run's project directory may be any directory there is in which the runner's user may work: the
command gets it as its working directory, and the runner itself writes nothing there. The command is a file of the
executor's own folder, or an installed script, whatever the agent's definition says; no shell reads it.
"""

import asyncio
import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from fsm_runner.config.profiles import LoadedProfile
from fsm_runner.coordinator_client import policy
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.json_schema.checker import CHECK_PROGRAM
from fsm_runner.process.child.child import Child
from fsm_runner.runtime.control import heartbeat, poller, reconciler
from fsm_runner.util.retry import RetryPolicy
from tests.support.children import open_descriptors
from tests.support.faults import Answer, Kind, status
from tests.support.home import make_home
from tests.support.hostile_answers import FINAL_FOR_A_REGISTRATION, Hostile, http_faults, shuffled, spoiled, text_faults
from tests.support.hostile_orders import MARKER, Orders
from tests.support.logs import log_lines
from tests.support.proxy import POLL, FaultProxy
from tests.support.runner import FAST, RunningRunner, System, open_system
from tests.support.script_archives import archive, description, file, script, special
from tests.support.watch import PATIENCE_S

ROUNDS = 6
MALFORMED_ANSWERS = 1_000
TIMINGS = Timings(poll_timeout_s=0.05, heartbeat_interval_s=0.02, stale_after_s=1)
QUICK = RetryPolicy(base_s=0.001, cap_s=0.01)
POLICIES = msgspec.structs.replace(
    FAST,
    **dict.fromkeys(("register", "poll", "short_poll", "heartbeat", "delivery"), QUICK),
    registration_conflict=RetryPolicy(base_s=0.01, cap_s=0.05, limit_s=20),
    script=RetryPolicy(base_s=0.001, cap_s=0.01, limit_s=1),
)
CONNECTIONS = 30
"""As many may be idle at one time and not at another, of reports and of the line, each with two ends and more."""
RUN_REPORT, RUN = r"/runner/runs/[^/]+/(started|completed)", r"/runs/[^/]+"
SESSION_MESSAGE = r"/sessions/[^/]+/(bind|events)"
INTERVALS: dict[str, Any] = {"poll_timeout_s": 0.05, "heartbeat_interval_s": 0.02}
"""The runner's own, which a coordinator does not make longer."""
ANY_REQUEST = {"run_id": "run_1", "session_id": "ses_1", "runner_id": "rnr_1", "status": "claimed", "error": None}


class Spoilers:
    """Answers that are given in place of the coordinator's, each once, and a count of those that were."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self.used: Counter[str] = Counter()
        self.by_call: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()

    def put(self, method: str, path: str, answers: Iterable[Hostile]) -> None:
        call = f"{method} {path}"
        for name, answer in answers:
            self._waiting[call] += 1
            self._proxy.fault(method, path, self._kind(call, name, answer))

    def are_waiting(self, method: str, path: str) -> bool:
        return self._waiting[f"{method} {path}"] > 0

    async def all_used(self, method: str, path: str) -> None:
        await self._proxy.wait_for(lambda: not self.are_waiting(method, path), f"{method} {path} spoiled")

    def heal(self) -> None:
        self._proxy.heal()
        self._waiting.clear()

    def _kind(self, call: str, name: str, answer: Any) -> Kind:
        async def respond(_: object) -> Any:
            self._waiting[call] -= 1
            self.used[name] += 1
            self.by_call[call] += 1
            return answer

        return Kind(name, respond)


class Programs:
    """What is started, and whether the protocol grants it."""

    def __init__(self, profile: LoadedProfile, project_dir: Path) -> None:
        self.started: list[list[str]] = []
        self._folders = (profile.home / "executors" / "procedural", project_dir / "scripts")

    def not_granted(self) -> list[list[str]]:
        return [command for command in self.started if not self._is_granted(command)]

    def _is_granted(self, command: list[str]) -> bool:
        interpreted = command[0] in ("/bin/sh", sys.executable)
        program = Path(command[1] if interpreted else command[0])
        return any(program.resolve().is_relative_to(folder.resolve()) for folder in self._folders)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LoadedProfile, Programs]]:
    profile = make_home(tmp_path / "world" / "home")
    found = Programs(profile, tmp_path / "world" / "project")
    start = Child.start

    def recorded(command: list[str], **fields: Any) -> Child:
        if str(CHECK_PROGRAM) not in command:  # the coordinator's own
            found.started.append(list(command))
        return start(command, **fields)

    monkeypatch.setattr(Child, "start", recorded)
    yield profile, found


class Attack:
    """All kinds of answers, some of each in each round."""

    def __init__(self, system: System, runner: RunningRunner, spoilers: Spoilers, orders: Orders) -> None:
        self._system = system
        self._runner = runner
        self._spoilers = spoilers
        rng = random.Random(7)
        self._orders = iter(orders)
        registered = {
            "runner_id": "rnr_1",
            "poll_endpoint": POLL,
            "poll_timeout_seconds": 0.3,
            "heartbeat_interval_seconds": 0.1,
        }
        run = {**ANY_REQUEST, "type": "start_session", "agent_name": "say", "parameters": {"text": "x"}}
        self._polls = spoiled(rng, {"run": run, "stop_sessions": ["ses_1"], "sync_scripts": ["tidy"]})
        self._registrations = (each for each in spoiled(rng, registered) if not _is_final(each))
        self._heartbeats = spoiled(rng, {"ok": True})
        self._acknowledgements = spoiled(rng, {"ok": True, "session": {"session_id": "ses_1"}})
        self._runs = spoiled(rng, run)
        self._lists = spoiled(rng, {"runs": [run, ANY_REQUEST]})
        self._downloads = spoiled(rng, ANY_REQUEST)
        self._archives = shuffled(rng, {kind: Answer(200, each, "application/gzip") for kind, each in ARCHIVES.items()})
        self._scripts = itertools.count(1)

    async def go_on(self) -> None:
        """One round; the runner is well after each part of it."""
        for part in (self._poll, self._report, self._download, self._look_up, self._beat, self._register):
            await part()
            self._spoilers.heal()
            await self._is_healthy()

    async def _poll(self) -> None:
        self._spoilers.put("GET", POLL, itertools.islice(self._polls, 45))
        self._spoilers.put("GET", POLL, itertools.islice(self._orders, 60))
        await self._spoilers.all_used("GET", POLL)

    async def _report(self) -> None:
        for method, path, count in (("POST", RUN_REPORT, 15), ("POST", SESSION_MESSAGE, 15)):
            self._spoilers.put(method, path, itertools.islice(self._acknowledgements, count))
        self._spoilers.put("GET", RUN, itertools.islice(self._runs, 15))
        while any(self._spoilers.are_waiting("POST", path) for path in (RUN_REPORT, SESSION_MESSAGE)):
            await self._system.end(await self._system.submit("say", text="x"))

    async def _download(self) -> None:
        answers = [*itertools.islice(self._downloads, 15), *itertools.islice(self._archives, 10)]
        names = [f"tidy{next(self._scripts)}" for _ in answers]
        for name, answer in zip(names, answers, strict=True):
            self._spoilers.put("GET", f"/scripts/{name}/download", [answer])
        order = Answer(200, msgspec.json.encode({"sync_scripts": names, "remove_scripts": names[::3]}))
        self._spoilers.put("GET", POLL, [("scripts", order)])
        for name in names:
            await self._spoilers.all_used("GET", f"/scripts/{name}/download")

    async def _look_up(self) -> None:
        self._spoilers.put("GET", "/runs", itertools.islice(self._lists, 20))
        await self._spoilers.all_used("GET", "/runs")

    async def _beat(self) -> None:
        self._spoilers.put("POST", "/runner/heartbeat", itertools.islice(self._heartbeats, 12))
        await self._spoilers.all_used("POST", "/runner/heartbeat")

    async def _register(self) -> None:
        self._spoilers.put("POST", "/runner/register", itertools.islice(self._registrations, 30))
        while self._spoilers.are_waiting("POST", "/runner/register"):
            registrations = len(self._system.proxy.calls_for("POST", "/runner/register"))
            self._system.proxy.fault("GET", POLL, status(401, "Runner not registered"))
            await self._system.proxy.seen("POST", "/runner/register", registrations + 1)

    async def _is_healthy(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._runner.goes_through("online")
            await self._system.completes()
            await self._runner.actor._runs.wait_until_empty()
        assert not self._runner.living.done()


def _is_final(hostile: Hostile) -> bool:
    answer = hostile[1]
    return isinstance(answer, Answer) and answer.status in FINAL_FOR_A_REGISTRATION


ARCHIVES = {
    "sound, of another name": script(),
    "out of its folder": archive(file("../../escaped", b"x"), file("tidy/script.json", description())),
    "absolute": archive(file("/tmp/escaped", b"x")),
    "link": archive(special("tidy/run.sh", b"2", "/bin/sh"), file("tidy/script.json", description())),
    "hard link": archive(special("tidy/run.sh", b"1", "/etc/passwd")),
    "device": archive(special("tidy/run.sh", b"3")),
    "pipe": archive(special("tidy/run.sh", b"6")),
    "no archive": b"\x1f\x8b" + bytes(100),
    "empty": b"",
    "cut": script()[:-20],
}


class Usage:
    """What the program has at one moment."""

    def __init__(self) -> None:
        self.tasks = len(asyncio.all_tasks())
        self.descriptors = open_descriptors()
        self.children = len(psutil.Process().children(recursive=True))

    def __repr__(self) -> str:
        return f"{self.tasks} tasks, {self.descriptors} descriptors, {self.children} children"


def names_below(folder: Path, without: tuple[Path, ...] = ()) -> set[Path]:
    return {path for path in folder.rglob("*") if not any(path.is_relative_to(each) for each in without)}


@pytest.mark.sends_invalid_requests("redirects lead to any path")
async def test_a_hostile_coordinator_neither_ends_a_runner_nor_gets_more_than_the_protocol_grants(
    tmp_path: Path, programs: tuple[LoadedProfile, Programs], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (poller, reconciler):
        monkeypatch.setattr(module, "RUN_LOOKUP_INTERVAL_S", 0.01)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_MIN_S", 0.02)
    monkeypatch.setattr(policy, "RESPONSE_LIMIT_BYTES", 2_500_000)
    profile, started = programs
    world, outside, marker = tmp_path / "world", tmp_path / "outside", tmp_path / MARKER
    outside.mkdir()
    (world / "project").mkdir()
    own = (world / "project", world / "state")
    before = names_below(tmp_path, own)
    usages = []
    with log_lines() as log:
        async with (
            open_system(world, TIMINGS) as system,
            system.running(profile, POLICIES, state_dir=world / "state", **INTERVALS) as runner,
        ):
            spoilers = Spoilers(system.proxy)
            attack = Attack(system, runner, spoilers, Orders(random.Random(8), marker, outside))
            for _ in range(ROUNDS):
                await attack.go_on()
                usages.append(Usage())
    assert sum(spoilers.used.values()) >= MALFORMED_ANSWERS, spoilers.by_call
    assert spoilers.used.keys() >= http_faults(b"{}").keys() | text_faults(b"{}").keys()
    assert system.proxy.calls_for("GET", "/trap") == []
    assert names_below(tmp_path, own) == before
    written = names_below(tmp_path)
    assert not [path for path in written if path.name in (MARKER, "escaped")]
    assert [path.name for path in written if path.parent == world / "project"] in ([], ["scripts"])
    assert started.not_granted() == []
    assert [line for line in log if " broke" in line or "could not be sent" in line or "own fault" in line] == []
    first, last = usages[: ROUNDS // 3], usages[-ROUNDS // 3 :]
    for what in ("tasks", "descriptors", "children"):
        most = max(getattr(each, what) for each in first)
        assert max(getattr(each, what) for each in last) <= most + CONNECTIONS, usages
    assert {each.children for each in last} == {each.children for each in first}
