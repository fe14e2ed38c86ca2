"""Runner, gateway, MCP server and commands with a coordinator that demands tokens, of a token service over TLS."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.config.settings import TokenRequest
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.auth import TokenAuth
from fsm_runner.coordinator_client.policy import TOKEN_MARGIN_S
from fsm_runner.coordinator_server.auth import tokens
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_FAILED, EXIT_OK
from fsm_runner.http_server.listener import listen
from tests.support.command_executor import AGENT, command_home
from tests.support.command_executor import PROFILE as STAGED_PROFILE
from tests.support.embedded import Clock, EmbeddedCoordinator, embedded_coordinator
from tests.support.home import PROFILE, make_home
from tests.support.issuer import AUDIENCE, CLIENT_ID, CLIENT_SECRET, Issuer, Signed, issuing
from tests.support.mcp import call, mcp_client
from tests.support.program import Finished, Program, environment, finish, program
from tests.support.runner import waiter

SHORT_LIFE_S = 2.0
QUICK_POLLS = Timings(poll_timeout_s=0.5, heartbeat_interval_s=0.5)
"""The interval is short, so that there is always a call that needs a token."""
RENEWALS = 2


class Place:
    """A token service, and a coordinator that requires its tokens."""

    def __init__(self, folder: Path, issuer: Issuer, authority_file: Path, coordinator: EmbeddedCoordinator) -> None:
        self.folder = folder
        self.issuer = issuer
        self.authority_file = authority_file
        self.coordinator = coordinator

    def env(self, **changed: str) -> dict[str, str]:
        """Return the environment of a program that calls the coordinator."""
        variables = {
            "AGENT_ORCHESTRATOR_API_URL": self.coordinator.server.url,
            "SSL_CERT_FILE": str(self.authority_file),
            # Both are on this machine, so no proxy is used.
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "HTTP_PROXY": "http://127.0.0.1:9",
            "XDG_STATE_HOME": str(self.folder / "state"),
            **self.issuer.variables(),
            **changed,
        }
        return environment(self.folder / "home", **variables)

    async def does(self, *arguments: str) -> Finished:
        """Run a command to its end."""
        return await finish(self.folder, self.env(), *arguments)

    @asynccontextmanager
    async def runner(self, profile: str, *flags: str, **changed: str) -> AsyncIterator[Program]:
        async with program(self.folder, self.env(**changed), "--profile", profile, "--verbose", *flags) as runner:
            yield runner
        for line in runner.lines:
            assert CLIENT_SECRET not in line
            assert not any(token in line for token in self.issuer.issued)

    async def renewed(self) -> None:
        """Return after further replacements of the token."""
        await self.issuer.has_issued(len(self.issuer.issued) + RENEWALS)


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(tokens, "LEEWAY_S", 0.0)
    async with issuing(tmp_path) as (issuer, authority_file):
        with monkeypatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(authority_file))
            async with embedded_coordinator(QUICK_POLLS, token_requirements=issuer.requirements) as coordinator:
                coordinator.http.auth = Signed(issuer)
                yield Place(tmp_path, issuer, authority_file, coordinator)


async def test_runs_work_while_tokens_are_renewed(place: Place, tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    place.issuer.lifetime_s = SHORT_LIFE_S
    async with place.runner(PROFILE) as runner, waiter(tmp_path) as command:
        await runner.said("registered")
        for text in ("before", "after"):
            waited = await place.does("submit", "say", f"text={text}", "--wait")
            assert (waited.code, json.loads(waited.stdout)) == (EXIT_OK, {"said": text}), waited.stderr
            await place.renewed()
        submitted = await place.does("submit", "wait", *(f"{key}={value}" for key, value in command.parameters.items()))
        run_id = json.loads(submitted.stdout)["run_id"]
        await command.started.pid()
        # Renewals do not affect an active run.
        await place.renewed()
        assert run_id in (await place.does("runs", "--status", "running")).stdout
        assert (await place.does("stop", run_id)).code == EXIT_OK
        await runner.said("stopped")
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
    assert not any("HTTP 401" in line or "disconnected" in line for line in runner.lines)
    assert (await place.coordinator.http.get("/runners")).json()["runners"] == []


async def test_gateway_and_mcp_server_carry_tokens_that_are_renewed(place: Place, tmp_path: Path) -> None:
    command_home(tmp_path / "home")
    place.issuer.lifetime_s = SHORT_LIFE_S
    with await listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    steps = json.dumps([["bind"], ["event", "hello"], ["report"]])
    async with place.runner(STAGED_PROFILE, "--mcp-port", str(port)) as runner:
        await runner.said("registered")
        first = await place.does("submit", AGENT, f"steps:={steps}", "--wait")
        received = json.loads(first.stdout)
        assert all(status < 300 for status in received["answers"]), received
        session_id = first.stderr.split(" of ")[1].split()[0]
        await place.renewed()
        further = await place.does("submit", "--session", session_id, f"steps:={steps}", "--wait")
        again = json.loads(further.stdout)
        assert again["pid"] == received["pid"]
        assert all(status < 300 for status in again["answers"]), again
        async with mcp_client(f"http://127.0.0.1:{port}/mcp") as client:
            for _ in range(2):
                sessions = (await call(client, "list_agent_sessions"))["sessions"]
                assert [each["session_id"] for each in sessions] == [session_id]
                await place.renewed()
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK


async def test_wrong_credentials_end_the_start(place: Place, tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    async with place.runner(PROFILE, AUTH0_RUNNER_CLIENT_SECRET="not-the-s3cret") as runner:
        assert await runner.exit_code() == EXIT_FAILED
    said = "\n".join(runner.lines)
    for part in (
        place.issuer.domain,
        "AUTH0_DOMAIN",
        "AUTH0_RUNNER_CLIENT_ID",
        "AUTH0_RUNNER_CLIENT_SECRET",
        "HTTP 401",
    ):
        assert part in said
    assert "not-the-s3cret" not in said
    assert "Traceback" not in said
    assert len(place.issuer.logins) == 1


@pytest.mark.parametrize("command", [("runs",), ("stop", "run_1"), ("submit", "say", "text=x")])
async def test_a_command_with_wrong_credentials_reports_them(
    place: Place, tmp_path: Path, command: tuple[str, ...]
) -> None:
    make_home(tmp_path / "home")
    ended = await finish(tmp_path, place.env(AUTH0_RUNNER_CLIENT_SECRET="not-the-s3cret"), *command)
    assert ended.code == EXIT_FAILED
    assert ended.stderr.startswith(f"error: POST {place.issuer.token_url}: HTTP 401")
    assert "AUTH0_RUNNER_CLIENT_SECRET" in ended.stderr
    assert "not-the-s3cret" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


async def test_an_unreachable_token_service_is_retried(place: Place, tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    place.issuer.away = True
    place.issuer.lifetime_s = SHORT_LIFE_S
    async with place.runner(PROFILE) as runner:
        await runner.said("token renewal failed")
        await place.issuer.asked_for_tokens(2)
        place.issuer.away = False
        await runner.said("registered")
        await place.renewed()
        place.issuer.away = True
        await runner.said("token renewal failed", 2)
        await runner.said("disconnected")
        place.issuer.away = False
        await runner.said("token renewal works again", 2)
        waited = await place.does("submit", "say", "text=still", "--wait")
        assert (waited.code, json.loads(waited.stdout)) == (EXIT_OK, {"said": "still"}), waited.stderr
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
    assert len([line for line in runner.lines if "token renewal failed" in line]) == 2


async def test_a_certificate_of_an_unknown_authority_is_reported_with_a_remedy(place: Place, tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    async with place.runner(PROFILE, SSL_CERT_FILE="") as runner:
        line = await runner.said("CERTIFICATE_VERIFY_FAILED")
        assert place.issuer.token_url in line
        assert "SSL_CERT_FILE" in line
        runner.terminate()
        assert await runner.exit_code() == EXIT_OK
    assert place.issuer.logins == []


async def test_a_missing_certificate_file_is_a_usage_error(place: Place, tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    ended = await finish(tmp_path, place.env(SSL_CERT_FILE="/no/such/file"), "--profile", PROFILE)
    assert ended.code == 2
    assert "SSL_CERT_FILE" in ended.stderr
    assert "cannot be used: [Errno 2]" in ended.stderr


async def test_a_slow_renewal_delays_no_call(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(place.authority_file))
    clock = Clock()
    login = TokenRequest(client_id=CLIENT_ID, client_secret=CLIENT_SECRET, audience=AUDIENCE)
    auth = TokenAuth(place.issuer.token_url, login, now=clock)
    async with CoordinatorApi(place.coordinator.server.url, auth) as api:
        await api.runs()
        place.issuer.gate.clear()
        clock.now_s += place.issuer.lifetime_s - TOKEN_MARGIN_S
        await asyncio.gather(*(api.runs() for _ in range(10)))
        await place.issuer.asked_for_tokens(2)
        await api.runs()
        assert len(place.issuer.issued) == 1
        place.issuer.gate.set()
        await place.issuer.has_issued(2)
    await auth.aclose()
