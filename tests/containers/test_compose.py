"""The compose files: one runner beside a coordinator, and everything together."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fsm_runner.coordinator_server.server import CoordinatorServer
from tests.support.containers import (
    BUILD_LIMIT_S,
    DOCKER,
    ENGINE,
    STARTED,
    compose,
    needs_compose,
    remove_containers_of_project,
)
from tests.support.watch import PATIENCE_S

pytestmark = needs_compose

HOST = "host.containers.internal" if ENGINE == "podman" else "host.docker.internal"
"""This host, from inside a container: podman below version 5 cannot give it a name of one's choice."""
LOOK_INTERVAL_S = 0.1


@pytest.fixture(autouse=True)
def gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Podman below version 5 knows no `host-gateway`."""
    if ENGINE == "podman":
        monkeypatch.setenv("HOST_GATEWAY", "127.0.0.1")


class Project:
    """The files as they are, under a name of their own, with a workspace that the runner may write."""

    def __init__(self, folder: Path, name: str, files: tuple[str, ...], runners: tuple[str, ...]) -> None:
        self.name = name
        STARTED.add(name)
        self._options = ["--project-name", name]
        for file in files:
            self._options += ["--file", str(DOCKER / file)]
        self._options += ["--file", str(self._local(folder, runners))]

    def _local(self, folder: Path, runners: tuple[str, ...]) -> Path:
        """What is of this machine."""
        workspace = folder / "workspace"
        workspace.mkdir()
        workspace.chmod(0o777)
        file = folder / "local.yml"
        service = f"{{volumes: ['{workspace}:/workspace']}}"
        file.write_text("services:\n" + "".join(f"  {runner}: {service}\n" for runner in runners))
        return file

    async def do(self, *arguments: str, limit_s: float = 4 * PATIENCE_S) -> str:
        """One command; what it prints."""
        ended = await compose(*self._options, *arguments, limit_s=limit_s)
        assert ended.code == 0, ended.stderr
        return ended.stdout


@asynccontextmanager
async def up(project: Project, *options: str) -> AsyncIterator[None]:
    try:
        await project.do("up", "--detach", *options, limit_s=BUILD_LIMIT_S)
        yield
    finally:
        # `down` of podman-compose knows no replicas.
        await remove_containers_of_project(project.name)
        await project.do("down", "--volumes")


async def runners(url: str, count: int) -> list[dict[str, Any]]:
    """Those that are online, once they are so many."""
    async with asyncio.timeout(2 * PATIENCE_S), httpx.AsyncClient(base_url=url, trust_env=False) as http:
        while True:
            try:
                found = [each for each in (await http.get("/runners")).json()["runners"] if each["status"] == "online"]
            except httpx.TransportError:
                found = []
            if len(found) == count:
                return found
            await asyncio.sleep(LOOK_INTERVAL_S)  # a coordinator tells of its runners only when asked


async def test_a_runner_beside_a_coordinator_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with CoordinatorServer(host="0.0.0.0", port=0) as server:
        port = httpx.URL(server.url).port
        monkeypatch.setenv("AGENT_ORCHESTRATOR_API_URL", f"http://{HOST}:{port}")
        project = Project(tmp_path, "fsm-runner-alone", ("docker-compose.yml",), ("agent-runner",))
        async with up(project):
            (runner,) = await runners(server.url, 1)
            assert runner["executor_profile"] == "best"
            listing = ("uv", "run", "--script", "agent-runner", "--profile-list")
            listed = await project.do("exec", "-T", "agent-runner", *listing)
            assert [line.split()[0] for line in listed.splitlines()] == ["best", "quick"]
            folder = "/app/servers/agent-runner/profiles/"
            assert (await project.do("exec", "-T", "agent-runner", "ls", folder)).split() == ["best.json", "quick.json"]
            assert (await project.do("exec", "-T", "agent-runner", "bash", "-c", "id -un")).strip() == "runner"
        assert await runners(server.url, 0) == []


async def test_everything_together_with_replicas_that_keep_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("COORDINATOR_PORT", str(port))
    url = f"http://127.0.0.1:{port}"
    files = ("docker-compose.yml", "all.yml")
    project = Project(tmp_path, "fsm-runner-all", files, ("agent-runner", "procedural-runner"))
    replicas = ("--scale", "procedural-runner=2")
    async with up(project, "--build", *replicas):
        at_first = await runners(url, 3)
        assert sorted(each["executor_profile"] for each in at_first) == ["best", "echo", "echo"]
        assert len({each["hostname"] for each in at_first}) == 3
        submit = ("fsm-runner", "submit", "echo", "message=hello", "--wait", "-c", "http://coordinator:8765")
        printed = await project.do("exec", "-T", "procedural-runner", *submit)
        assert json.loads(printed) == {"message": "hello"}
        # Of its own runner alone, also where replicas have one state volume.
        assert len((await project.do("exec", "-T", "procedural-runner", "fsm-runner", "health")).splitlines()) == 1
        await project.do("up", "--detach", "--force-recreate", *replicas)
        again = await runners(url, 3)
        assert {each["hostname"] for each in again} == {each["hostname"] for each in at_first}
        # podman-compose removes only the replicas that the file names.
        await project.do("up", "--detach", "--scale", "procedural-runner=1")
