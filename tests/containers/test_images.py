"""The images, built and run for real."""

import json
from pathlib import Path

import pytest

from tests.support.claude import needed_variables
from tests.support.containers import (
    BASE,
    CLAUDE_CODE,
    DOCKER,
    IMAGES,
    LOCKED_DOWN_FROM_ROOT,
    PROCEDURAL,
    RUNNER,
    at_work,
    build,
    container,
    engine,
    own_image,
)
from tests.support.messages_api import Calls, Says, messages_api
from tests.support.program import REPOSITORY
from tests.support.runner import System
from tests.support.watch import PATIENCE_S

LOCKED_DOWN = ("--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp:exec")
SCRIPTS = {
    "write": 'id -u > written; echo "{\\"uid\\": \\"$(id -u)\\"}"',
    "stay": "touch started; exec sleep 1000",
    "tell": "env",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """As `docker-images.md` has it: `mkdir -p workspace; chmod 777 workspace`."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


async def completes(system: System, agent: str, **parameters: str) -> dict[str, object]:
    run = await system.submit(agent, **parameters)
    await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
    result = await system.result(run)
    assert result is not None
    return result


async def configuration(image: str) -> dict[str, object]:
    shown = json.loads((await engine("inspect", image)).stdout)[0]["Config"]
    labels = sorted(shown["Labels"])
    return {"Labels": labels} | {
        key: shown.get(key) for key in ("User", "Env", "Entrypoint", "WorkingDir", "StopSignal", "Healthcheck")
    }


async def test_both_ways_of_building_give_the_same(tmp_path: Path) -> None:
    for image in IMAGES:
        name = image.removeprefix("agent-runner-")
        base = () if image == BASE else ("--build-arg", f"BASE_IMAGE={BASE}-apart")
        build(f"{image}-apart", DOCKER / name / "Dockerfile", *base)
        assert await configuration(f"{image}-apart") == await configuration(image)


@pytest.mark.parametrize(
    ("image", "profiles"), [(PROCEDURAL, ["echo", "test-procedural"]), (CLAUDE_CODE, ["best", "quick"])]
)
async def test_an_image_has_the_profiles_of_its_executor_alone(image: str, profiles: list[str]) -> None:
    listed = await engine("run", "--rm", "--network", "none", image, "--profile-list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == profiles
    refused = await engine("run", "--rm", "--network", "none", "--env", "PROFILE=nothing", image)
    assert refused.code == 2
    assert f"Profile not found: 'nothing'; there are: {', '.join(profiles)}" in refused.stderr


@pytest.mark.parametrize("image", IMAGES)
async def test_an_image_has_the_bundled_workflows(image: str) -> None:
    tested = await engine("run", "--rm", "--network", "none", image, "machine", "test")
    assert (tested.code, tested.stdout.count(".scenarios.toml\n")) == (0, 4), tested.stderr


@pytest.mark.parametrize("image", IMAGES)
async def test_an_image_has_no_installer_compiler_cache_or_program_with_the_rights_of_others(image: str) -> None:
    look = (
        "for name in pip gcc cc make; do command -v $name; done; find / -xdev -type f -perm /6000 2>/dev/null; "
        "find /var/lib/apt/lists /var/cache/apt /root/.cache /tmp -type f ! -name lock 2>/dev/null; true"
    )
    found = await engine("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "sh", image, "-c", look)
    assert (found.code, found.stdout) == (0, "")


@pytest.mark.parametrize("file", sorted(DOCKER.glob("*/profiles/*.json")), ids=lambda file: file.stem)
def test_its_profiles_are_those_of_the_project(file: Path) -> None:
    assert file.read_text() == (REPOSITORY / "profiles" / file.name).read_text()


async def test_an_agent_runs_from_submission_to_result(tmp_path: Path) -> None:
    async with at_work(tmp_path, SCRIPTS, PROCEDURAL) as (system, running):
        assert await completes(system, "echo", message="hello") == {"message": "hello"}
        listed = await running.execute("uv", "run", "--script", "agent-runner", "--profile-list")
        assert listed.stdout.splitlines()[0].startswith("echo ")


async def test_it_runs_with_nothing_writable_but_what_it_needs(tmp_path: Path, workspace: Path) -> None:
    options = (*LOCKED_DOWN, "--volume", f"{workspace}:/workspace")
    async with at_work(tmp_path, SCRIPTS, PROCEDURAL, *options) as (system, running):
        uid = (await running.execute("id", "-u")).stdout.strip()
        assert uid != "0"
        assert await completes(system, "run-write") == {"uid": uid}
        written = workspace / "written"
        assert (written.read_text().strip(), str(written.stat().st_uid)) == (uid, uid)
        listed = await running.execute("uv", "run", "--script", "agent-runner", "--profile-list")
        assert listed.code == 0


async def test_a_workspace_that_is_not_its_own_fails_the_run_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir(mode=0o700)
    options = ("--volume", f"{tmp_path / 'workspace'}:/workspace")
    async with at_work(tmp_path, SCRIPTS, PROCEDURAL, *options) as (system, running):
        await running.says("runs will fail: Permission denied on workspace /workspace")
        run = await system.submit("echo", message="hello")
        await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/failed")
        assert "Permission denied on workspace" in ((await system.api.run(run.run_id)).error or "")


async def test_a_stop_during_a_run_is_logged_and_in_order(tmp_path: Path, workspace: Path) -> None:
    options = ("--env", "GRACE_PERIOD=0", "--volume", f"{workspace}:/workspace")
    async with at_work(tmp_path, SCRIPTS, PROCEDURAL, *options) as (system, running):
        run = await system.submit("run-stay")
        await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/started")
        await engine("stop", "--time", "20", running.name, limit_s=2 * PATIENCE_S)
        assert await running.exit_code() == 0
        assert (await system.api.run(run.run_id)).status == "stopped"
        assert await system.runners() == []


async def test_it_is_healthy_while_its_runner_answers(tmp_path: Path) -> None:
    async with at_work(tmp_path, SCRIPTS, PROCEDURAL, "--health-interval", "1s") as (_, running):
        assert (await running.execute("fsm-runner", "health")).stdout.endswith(": online, 0 runs held\n")
        await running.comes_to_be("healthy")
        assert (await running.execute("sh", "-c", f"kill -STOP {RUNNER}")).code == 0
        await running.comes_to_be("unhealthy")
        assert (await running.execute("sh", "-c", f"kill -CONT {RUNNER}")).code == 0
        await running.comes_to_be("healthy")


async def test_a_coordinator_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    url = "AGENT_ORCHESTRATOR_API_URL=http://127.0.0.1:9"
    async with container("fsm-runner-alone", PROCEDURAL, "--env", url) as running:
        await running.says("Cannot connect to Agent Coordinator at http://127.0.0.1:9")


async def test_empty_variables_leave_the_images_own_values() -> None:
    names = ("AGENT_ORCHESTRATOR_API_URL", "PROFILE", "PROJECT_DIR", "STATE_DIR")
    empty = [word for name in names for word in ("--env", f"{name}=")]
    async with container("fsm-runner-empty", CLAUDE_CODE, *empty) as running:
        await running.says("Cannot connect to Agent Coordinator at http://host.docker.internal:8765")
        assert "runs will fail: Permission denied" not in await running.logs()
        assert (await running.execute("sh", "-c", "ls /var/lib/fsm-runner/*/journal.sqlite")).code == 0


async def test_what_an_executor_sees_is_nothing_of_the_containers(tmp_path: Path, workspace: Path) -> None:
    options = ("--env", "SECRET=x", "--env", "AUTH0_RUNNER_CLIENT_SECRET=y", "--volume", f"{workspace}:/workspace")
    async with at_work(tmp_path, SCRIPTS, PROCEDURAL, *options) as (system, _):
        received = await completes(system, "run-tell")
        names = {line.partition("=")[0] for line in str(received["stdout"]).splitlines()}
    assert {"PATH", "HOME", "AGENT_SESSION_ID"} <= names
    assert not {"SECRET", "AUTH0_RUNNER_CLIENT_SECRET", "AGENT_ORCHESTRATOR_API_URL", "STATE_DIR"} & names


NEEDS_PACKAGE = """#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["tabulate>=0.9"]
# ///
import tabulate
"""


EXECUTORS = REPOSITORY / "tests/support/executors"
OWN = {
    "in shell": (
        (EXECUTORS / "plain-shell").read_text(),
        "apt-get update && apt-get install -y jq",
        ("--env", "UV_OFFLINE=1"),
        "20 characters",
    ),
    "in Python, with its package installed": (
        NEEDS_PACKAGE + (EXECUTORS / "plain-python").read_text(),
        "uv pip install --python /app/venv/bin/python tabulate",
        ("--env", "UV_OFFLINE=1"),
        "4 words",
    ),
    "in Python, with its package fetched": (
        NEEDS_PACKAGE + (EXECUTORS / "plain-python").read_text(),
        "true",
        (),
        "4 words",
    ),
}


@pytest.mark.parametrize(("executor", "preparation", "options", "answer"), OWN.values(), ids=OWN)
async def test_an_image_with_an_executor_of_ones_own(
    tmp_path: Path, executor: str, preparation: str, options: tuple[str, ...], answer: str
) -> None:
    image = own_image(tmp_path, executor, preparation)
    async with at_work(tmp_path, SCRIPTS, image, *LOCKED_DOWN_FROM_ROOT, *options) as (system, running):
        assert (await running.execute("sh", "-c", f"stat -c %U /proc/{RUNNER}")).stdout == "runner\n"
        assert (await system.runners())[0]["executor_profile"] == "my-profile"
        await running.comes_to_be("healthy")
        run = await system.submit_prompt("four words are these")
        await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
        assert (await system.api.session_result(run.session_id)).result_text == answer
        # Whoever is the container's first process may tell the runner so.
        await engine("stop", "--time", "20", running.name, limit_s=2 * PATIENCE_S)
        assert await running.exit_code() == 0
        assert await system.runners() == []


@pytest.mark.parametrize(
    "options",
    [
        ("--env", "AUTH0_RUNNER_CLIENT_SECRET_FILE=/nowhere"),
        ("--env", "AUTH0_RUNNER_CLIENT_SECRET_FILE=/tmp"),
        ("--volume", "{file}:/run/secrets/AUTH0_RUNNER_CLIENT_SECRET:ro"),
    ],
    ids=["missing", "folder", "closed"],
)
async def test_a_secret_that_cannot_be_read_ends_the_start(tmp_path: Path, options: tuple[str, ...]) -> None:
    file = tmp_path / "secret"
    file.touch(0o600)
    named = [option.format(file=file) for option in options]
    refused = await engine("run", "--rm", "--network", "none", *named, PROCEDURAL)
    assert refused.code == 2
    assert "Error: AUTH0_RUNNER_CLIENT_SECRET: " in refused.stderr
    assert "cannot be read by uid 10001" in refused.stderr


async def test_an_image_of_root_that_may_not_give_its_rights_up_says_what_to_do() -> None:
    refused = await engine("run", "--rm", "--network", "none", "--cap-drop", "ALL", BASE)
    assert refused.code == 2
    assert "--cap-add SETUID --cap-add SETGID" in refused.stderr


async def test_a_command_beside_the_runner_takes_no_name_in_its_volume() -> None:
    volume = "fsm-runner-names"
    await engine("volume", "rm", "--force", volume)
    try:
        for command in (("--profile-list",), ("history",), ("health",)):
            await engine(
                "run", "--rm", "--network", "bridge", "--volume", f"{volume}:/var/lib/fsm-runner", PROCEDURAL, *command
            )
        options = ("--network", "none", "--volume", f"{volume}:/var/lib/fsm-runner", "--entrypoint", "ls", PROCEDURAL)
        left = await engine("run", "--rm", *options, "/var/lib/fsm-runner")
        assert (left.code, left.stdout) == (0, "")
    finally:
        await engine("volume", "rm", "--force", volume)


@pytest.mark.parametrize("file", ["/run/secrets/CLAUDE_CODE_OAUTH_TOKEN", "/somewhere/token"])
async def test_claude_code_works_with_a_secret_from_a_file(tmp_path: Path, workspace: Path, file: str) -> None:
    secret = tmp_path / "token"
    async with messages_api() as api:
        variables = needed_variables(api.url, tmp_path)
        secret.write_text(variables["CLAUDE_CODE_OAUTH_TOKEN"])
        secret.chmod(0o644)
        named = [] if file.startswith("/run/secrets") else ["--env", f"CLAUDE_CODE_OAUTH_TOKEN_FILE={file}"]
        options = [*named, *LOCKED_DOWN, "--volume", f"{secret}:{file}:ro", "--volume", f"{workspace}:/workspace"]
        options += ["--env", f"ANTHROPIC_BASE_URL={api.url}", "--env", "PROFILE=quick"]
        api.will(Calls("Write", {"file_path": "/workspace/made", "content": "by the model"}), Says("done"))
        async with at_work(tmp_path, SCRIPTS, CLAUDE_CODE, *options) as (system, running):
            run = await system.submit_prompt("make it")
            await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
            assert (await system.api.session_result(run.session_id)).result_text == "done"
            assert (workspace / "made").read_text() == "by the model"
            assert (await running.execute("claude", "--version")).code == 0
            assert (await running.execute("node", "--version")).code == 0
