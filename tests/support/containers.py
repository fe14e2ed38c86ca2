"""Images that are built, and containers that run, with the engine that this machine has: podman or docker.

As a program (`python -m tests.support.containers`) it builds the images, where there is an engine.
"""

import asyncio
import faulthandler
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.program import REPOSITORY
from tests.support.runner import System
from tests.support.scripts import script_bench
from tests.support.watch import PATIENCE_S

BUILD_LIMIT_S = 600
LOOK_INTERVAL_S = 0.1
VERDICT_LIMIT_S = 60
"""Enough for a health check's start period and the failures in a row that count."""
HOME = "/app/servers/agent-runner"
BASE, PROCEDURAL, CLAUDE_CODE = "agent-runner-base", "agent-runner-procedural", "agent-runner-claude-code"
IMAGES = (BASE, PROCEDURAL, CLAUDE_CODE)
DOCKER = REPOSITORY / "docker"
STARTED: set[str] = set()
"""Prefixes of the names of containers and compose projects that this module's tests have started."""


def _works(engine: str) -> bool:
    return shutil.which(engine) is not None and subprocess.run([engine, "info"], capture_output=True).returncode == 0


ENGINE = next((engine for engine in ("podman", "docker") if _works(engine)), None)
MUST_WORK = bool(os.environ.get("CI"))
"""In CI a machine without a usable engine fails the tests of the images. Elsewhere they are skipped with the reason."""
BASE_IMAGE = "python:3.12-slim"
"""The base of all images."""


def _compose() -> tuple[str, ...] | None:
    """Return the compose command for this engine, or None if containers cannot resolve each other's names."""
    if ENGINE == "docker":
        works = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
        return ("docker", "compose") if works else None
    if ENGINE is None:
        return None
    backend = subprocess.run(["podman", "info", "--format", "{{.Host.NetworkBackend}}"], capture_output=True, text=True)
    resolver = {"cni": "dnsname", "netavark": "aardvark-dns"}.get(backend.stdout.strip())
    if resolver is None:
        return None
    places = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni", "/usr/lib/podman", "/usr/libexec/podman")
    found = any(Path(place, resolver).exists() for place in places)
    return (sys.executable, "-m", "podman_compose", "--in-pod=false") if found else None


COMPOSE = _compose()
needs_compose = pytest.mark.skipif(
    COMPOSE is None and not MUST_WORK, reason="there is no compose here, or its networks have no names"
)


LOCKED_DOWN_FROM_ROOT = (
    *("--read-only", "--tmpfs", "/tmp:exec"),
    *("--cap-drop", "ALL", "--cap-add", "SETUID", "--cap-add", "SETGID"),
)
"""Lets an image that starts as root drop its rights."""
RUNNER = "$(cut -d' ' -f1 /proc/1/task/1/children)"
"""Shell text for the id of the runner's process in the container: the child of init."""


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str


async def engine(*arguments: str, limit_s: float = PATIENCE_S) -> Ended:
    """Run one command of the engine to its end."""
    assert ENGINE is not None
    return await _ended(ENGINE, *arguments, limit_s=limit_s)


async def compose(*arguments: str, limit_s: float = PATIENCE_S) -> Ended:
    """Run one command of compose to its end."""
    assert COMPOSE is not None
    return await _ended(*COMPOSE, *arguments, limit_s=limit_s)


async def remove_containers_of_project(name: str) -> None:
    """Stop and remove all containers of a compose project, with its replicas."""
    listed = await engine("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={name}")
    if ids := listed.stdout.split():
        stopped = await engine("stop", *ids, limit_s=4 * PATIENCE_S)
        assert stopped.code == 0, stopped.stderr
        removed = await engine("rm", "--force", "--volumes", *ids)
        assert removed.code == 0, removed.stderr


def container_names() -> frozenset[str]:
    """Return the names of all containers on this machine, running or not."""
    assert ENGINE is not None
    command = [ENGINE, "ps", "--all", "--format", "{{.Names}}"]
    return frozenset(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


async def _ended(*command: str, limit_s: float) -> Ended:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=pipe, cwd=REPOSITORY, env=_environment()
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), limit_s)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    # The engine's own complaints, such as missing units of systemd, do not concern the image.
    said = [line for line in err.decode().splitlines() if "systemd connection" not in line]
    return Ended(process.returncode, out.decode(), "\n".join(said))


def _environment() -> dict[str, str]:
    # Podman's own format has no health checks. With one format, compose's builds also reuse the layers.
    return {**os.environ, "BUILDAH_FORMAT": "docker"}


def why_unusable() -> str | None:
    """Return why no container can run here, or None."""
    if ENGINE is None:
        return "neither podman nor docker works here"
    command = [ENGINE, "run", "--rm", "--pull=missing", BASE_IMAGE, "true"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"`{' '.join(command)}` did not end within {BUILD_LIMIT_S} s"
    if ran.returncode == 0:
        return None
    return f"`{' '.join(command)}` failed: {(ran.stderr.strip().splitlines() or ['no output'])[-1]}"


def build(tag: str, file: Path, *options: str, context: Path = REPOSITORY) -> None:
    """Build the images. Raise AssertionError with the engine's output if that fails."""
    assert ENGINE is not None
    pull = ["--pull=missing"] if ENGINE == "podman" else []
    command = [ENGINE, "build", *pull, *options, "--tag", tag, "--file", str(file), str(context)]
    # The watch over tests that hang is for less than a build with nothing cached; this one has a limit of its own.
    faulthandler.cancel_dump_traceback_later()
    with Path(__file__).open() as lock:
        # Two builds at once would build the same layers twice.
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = subprocess.run(
            command, capture_output=True, text=True, timeout=BUILD_LIMIT_S, cwd=REPOSITORY, env=_environment()
        )
    assert built.returncode == 0, built.stderr[-4000:]


def build_images() -> None:
    """Return all images as stages of one file."""
    for image in IMAGES:
        build(image, DOCKER / "Dockerfile", "--target", image.removeprefix("agent-runner-"))


class Container:
    """A running container on the host's network, so that a coordinator of the test is at 127.0.0.1."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def logs(self) -> str:
        ended = await engine("logs", self.name)
        return ended.stdout + ended.stderr

    async def says(self, text: str) -> None:
        """Return when the log contains this text."""
        log = ""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while text not in log:
                    await asyncio.sleep(LOOK_INTERVAL_S)  # the engine does not announce new log lines
                    log = await self.logs()
        except TimeoutError:
            raise AssertionError(f"waited in vain for {text!r}:\n{log}") from None

    async def execute(self, *command: str) -> Ended:
        return await engine("exec", self.name, *command)

    async def comes_to_be(self, verdict: str) -> None:
        """Return when the engine reports this health: `healthy` or `unhealthy`."""
        found = ""
        try:
            async with asyncio.timeout(VERDICT_LIMIT_S):
                while found != verdict:
                    if ENGINE == "podman":  # without systemd, podman starts no health check by itself
                        await engine("healthcheck", "run", self.name)
                    await asyncio.sleep(LOOK_INTERVAL_S)  # the engine does not announce it
                    found = (await engine("inspect", "--format", "{{.State.Health.Status}}", self.name)).stdout.strip()
        except TimeoutError:
            raise AssertionError(f"waited in vain for {verdict!r}: it is {found!r}") from None

    async def exit_code(self) -> int:
        return int((await engine("wait", self.name)).stdout)


@asynccontextmanager
async def container(name: str, image: str, *options: str) -> AsyncIterator[Container]:
    """Run a container, and remove it at the end."""
    STARTED.add(name)
    await engine("rm", "--force", name)
    started = await engine("run", "--detach", "--network", "host", "--name", name, *options, image)
    assert started.code == 0, started.stderr
    try:
        yield Container(name)
    finally:
        await engine("rm", "--force", "--time=0" if ENGINE == "podman" else "--force", name)


@asynccontextmanager
async def at_work(
    folder: Path, scripts: Mapping[str, str], image: str, *options: str
) -> AsyncIterator[tuple[System, Container]]:
    """Start a coordinator here, and a container that registers at it."""
    async with script_bench(folder, scripts) as system:
        url = f"AGENT_ORCHESTRATOR_API_URL={system.proxy.url}"
        async with container(f"fsm-runner-{image.rpartition('-')[2]}", image, "--env", url, *options) as running:
            await running.says("→ online")
            yield system, running


def own_image(folder: Path, executor: str, preparation: str) -> str:
    """Build an image as the documents show it. Return its tag."""
    context = folder / "context"
    (context / "my-executor").mkdir(parents=True)
    program = context / "my-executor" / "run"
    program.write_text(executor)
    program.chmod(0o755)
    profile = {"type": "autonomous", "command": "executors/my-executor/run", "lifecycle": "persistent"}
    (context / "my-profile.json").write_text(json.dumps(profile))
    (context / "Dockerfile").write_text(
        f"FROM {BASE}:latest\n"
        f"RUN {preparation}\n"
        f"COPY my-executor/ {HOME}/executors/my-executor/\n"
        f"COPY my-profile.json {HOME}/profiles/\n"
        "ENV PROFILE=my-profile\n"
    )
    tag = "agent-runner-mine"
    build(tag, context / "Dockerfile", "--build-arg", f"BASE_IMAGE={BASE}:latest", context=context)
    return tag


if __name__ == "__main__" and ENGINE is not None:
    build_images()
