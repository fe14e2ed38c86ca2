"""Which requests the embedded coordinator accepts, and what its command prints about that."""

import asyncio
from pathlib import Path

import httpx
import pytest

from fsm_runner.errors import EXIT_USAGE
from tests.support.embedded import embedded_coordinator
from tests.support.issuer import AUDIENCE, issuing
from tests.support.program import environment, finish, program

SERVE = ("coordinator", "--port", "0")
WARNING = "requires no tokens"


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8765", "[::1]", "[::1]:80", "host.docker.internal:8765"],
)
async def test_requests_for_hosts_of_this_machine_are_answered(host: str) -> None:
    async with embedded_coordinator() as coordinator:
        assert (await coordinator.http.get("/health", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "localhost.",
        "127.0.0.2",
        "a@localhost",
        "::1",
        "",
    ],
)
async def test_another_host_is_refused_by_a_coordinator_on_loopback(host: str) -> None:
    async with embedded_coordinator() as coordinator:
        answer = await coordinator.http.post(
            "/runs", json={"type": "start_session", "parameters": {"prompt": "x"}}, headers={"Host": host}
        )
        assert answer.status_code == 403
        assert "localhost" in answer.json()["detail"]
        assert (await coordinator.http.get("/runs")).json()["runs"] == []


@pytest.mark.parametrize(
    ("request_head", "status"), [(b"GET /health HTTP/1.0", b"200"), (b"GET /health HTTP/1.1", b"400")]
)
async def test_only_http_1_0_may_omit_the_host(request_head: bytes, status: bytes) -> None:
    async with embedded_coordinator() as coordinator:
        url = httpx.URL(coordinator.server.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(request_head + b"\r\n\r\n")
        assert (await reader.readline()).split()[1] == status
        writer.close()
        await writer.wait_closed()


async def test_requests_for_the_configured_address_are_answered() -> None:
    async with embedded_coordinator(host="127.0.0.2") as coordinator:
        for host, status in (("127.0.0.2", 200), ("localhost", 200), ("evil.example", 403)):
            assert (await coordinator.http.get("/health", headers={"Host": host})).status_code == status


async def test_a_coordinator_on_a_network_answers_requests_for_any_host() -> None:
    async with embedded_coordinator(host="0.0.0.0") as coordinator:
        assert (await coordinator.http.get("/health", headers={"Host": "coordinator.example"})).status_code == 200


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"AUTH_ENABLED": "true"}, "AUTH0_DOMAIN and AUTH0_AUDIENCE are not set"),
        ({"AUTH_ENABLED": "1", "AUTH0_DOMAIN": "tenant.example", "AUTH0_AUDIENCE": ""}, "AUTH0_AUDIENCE"),
        ({"AUTH_ENABLED": "maybe"}, "AUTH_ENABLED: 'maybe': expected true or false"),
        ({"AUTH_ENABLED": "yes", "AUTH0_DOMAIN": "https://tenant.example/", "AUTH0_AUDIENCE": "a"}, "AUTH0_DOMAIN"),
        (
            {"AUTH_ENABLED": "on", "AUTH0_DOMAIN": "t.example", "AUTH0_AUDIENCE": "a", "SSL_CERT_FILE": "/no/file"},
            "SSL_CERT_FILE",
        ),
    ],
)
async def test_contradicting_variables_are_a_usage_error(tmp_path: Path, variables: dict[str, str], named: str) -> None:
    ended = await finish(tmp_path, environment(None, **variables), *SERVE)
    assert ended.code == EXIT_USAGE
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_the_command_requires_tokens_if_configured(tmp_path: Path) -> None:
    async with issuing(tmp_path) as (issuer, authority_file):
        variables = {
            "AUTH_ENABLED": "true",
            "AUTH0_DOMAIN": issuer.domain,
            "AUTH0_AUDIENCE": AUDIENCE,
            "SSL_CERT_FILE": str(authority_file),
        }
        async with program(tmp_path, environment(None, **variables), *SERVE, "--host", "0.0.0.0") as served:
            url = (await served.said("Coordinator at")).split(",")[0].removeprefix("Coordinator at ")
            async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
                assert (await http.get("/runs")).status_code == 401
                bearer = {"Authorization": f"Bearer {issuer.token()}"}
                assert (await http.get("/runs", headers=bearer)).status_code == 200
            served.terminate()
            assert await served.exit_code() == 0
        assert not any(WARNING in line for line in served.lines)


@pytest.mark.parametrize(("host", "warnings"), [("0.0.0.0", 1), ("127.0.0.1", 0)])
async def test_a_coordinator_that_is_open_to_the_network_prints_a_warning(
    tmp_path: Path, host: str, warnings: int
) -> None:
    async with program(tmp_path, environment(None, AUTH_ENABLED="false"), *SERVE, "--host", host) as served:
        await served.said("Coordinator at")
        served.terminate()
        assert await served.exit_code() == 0
    assert len([line for line in served.lines if WARNING in line]) == warnings
