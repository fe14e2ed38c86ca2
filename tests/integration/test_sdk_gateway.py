"""The SDK's client of the gateway, against real HTTP."""

import asyncio
import socket
import threading
from http.client import HTTPConnection

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

import fsm_executor.gateway
from fsm_executor.errors import GatewayError
from fsm_executor.gateway import Answer, Gateway
from tests.support.executor_program import RecordingGateway
from tests.support.watch import PATIENCE_S

pytestmark = pytest.mark.sends_invalid_requests("the SDK's client is given paths and bodies that mean nothing")


async def test_calls_are_joined_to_the_base_url_and_share_a_connection() -> None:
    async with RecordingGateway().serving() as recording:
        gateway = Gateway(f"{recording.url}/")
        await gateway.send("POST", "/bind", {"a": "ü"})
        await gateway.send("PATCH", "/metadata", {"b": 1})
        assert await gateway.request("GET", "/sessions/ses_2/status?deep=1") == Answer(201, {"ok": True})
        gateway.close()
        assert recording.calls == [
            ("POST", "/bind", {"a": "ü"}),
            ("PATCH", "/metadata", {"b": 1}),
            ("GET", "/sessions/ses_2/status", None),
        ]
        assert len(recording.clients) == 1


async def test_concurrent_calls_are_sent_one_after_another() -> None:
    async with RecordingGateway().serving() as recording:
        gateway = Gateway(recording.url)
        await asyncio.gather(*(gateway.send("POST", "/events", number) for number in range(20)))
        gateway.close()
        assert recording.bodies("/events") == list(range(20))
        assert len(recording.clients) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (JSONResponse({"detail": "the coordinator is away"}, status_code=502), "502: the coordinator is away"),
        (JSONResponse({"detail": {"error": "x"}}, status_code=409), '409: {"error": "x"}'),
        (
            JSONResponse({"detail": [{"loc": ["body", "content", 0], "msg": "no object", "type": "x"}]}, 422),
            "422: content.0: no object",
        ),
        (JSONResponse({"detail": [{"loc": None}]}, 422), '422: [{"loc": null}]'),
        (PlainTextResponse("nothing here", status_code=404), "404: nothing here"),
        (Response(status_code=500), "500: null"),
    ],
)
async def test_a_rejection_is_an_error_with_status_and_detail(answer: Response, reason: str) -> None:
    async with RecordingGateway().serving() as recording:
        recording.answers["/events"] = answer
        gateway = Gateway(recording.url)
        with pytest.raises(GatewayError) as refused:
            await gateway.send("POST", "/events", {})
        assert str(refused.value) == f"POST /events was answered with {reason}"
        assert refused.value.status == answer.status_code
        assert (await gateway.request("POST", "/events", {})).status == answer.status_code
        gateway.close()


async def test_a_failed_connection_is_an_error_with_the_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(GatewayError, match=rf"POST http://127.0.0.1:{port}/bind failed: .*refused") as failed:
        await Gateway(f"http://127.0.0.1:{port}").send("POST", "/bind", {})
    assert failed.value.status is None


async def test_a_missing_response_is_an_error() -> None:
    async with RecordingGateway().serving() as recording:
        recording.held.add("/bind")
        gateway = Gateway(recording.url, response_limit_s=0.05)
        with pytest.raises(GatewayError, match=r"was not answered within 0\.05 s"):
            await gateway.send("POST", "/bind", {})


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://host", "http://", "http://host:port"])
async def test_an_invalid_base_url_is_an_error(url: str) -> None:
    with pytest.raises(GatewayError, match="AGENT_ORCHESTRATOR_API_URL"):
        Gateway(url)


async def test_proxy_settings_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with RecordingGateway().serving() as recording:
        gateway = Gateway(recording.url)
        await gateway.send("POST", "/bind", {})
        gateway.close()


async def test_a_cancelled_call_ends_at_once_and_does_not_affect_later_calls() -> None:
    async with RecordingGateway().serving() as recording:
        recording.held.add("/events")
        gateway = Gateway(recording.url)
        telling = asyncio.create_task(gateway.send("POST", "/events", {}))
        await recording.called("/events")
        telling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await telling
        await gateway.send("POST", "/bind", {})
        gateway.close()
        # The thread does not wait for the response, so the loop's thread pool can shut down.
        await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), PATIENCE_S)
        assert len(recording.clients) == 2


async def test_a_connection_that_the_server_closed_is_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RecordingGateway().serving() as recording:
        gateway = Gateway(recording.url)
        recording.answers["/bind"] = Response(status_code=201, headers={"connection": "close"})
        await gateway.send("POST", "/bind", {})
        await gateway.send("POST", "/events", {})
        monkeypatch.setattr(fsm_executor.gateway, "IDLE_LIMIT_S", -1)
        await gateway.send("POST", "/events", {})
        gateway.close()
        assert len(recording.clients) == 3


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsm_executor.gateway, "IDLE_LIMIT_S", 0.05)
    after_answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        after_answers.put_nowait(await reader.read())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, asyncio.timeout(PATIENCE_S):
        gateway = Gateway("http://127.0.0.1:{1}".format(*server.sockets[0].getsockname()))
        for _ in range(2):
            assert await gateway.request("GET", "/") == Answer(200, {})
            assert await after_answers.get() == b""


async def test_a_call_that_is_cancelled_while_connecting_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    connecting, cancelled, connected = threading.Event(), threading.Event(), threading.Event()
    connect = HTTPConnection.connect

    def slow(connection: HTTPConnection) -> None:
        connecting.set()
        assert cancelled.wait(PATIENCE_S)
        connect(connection)
        connected.set()

    monkeypatch.setattr(HTTPConnection, "connect", slow)
    async with RecordingGateway().serving() as recording:
        gateway = Gateway(recording.url)
        telling = asyncio.create_task(gateway.send("POST", "/events", 1))
        assert await asyncio.to_thread(connecting.wait, PATIENCE_S)
        telling.cancel()
        await asyncio.wait([telling])
        cancelled.set()
        assert await asyncio.to_thread(connected.wait, PATIENCE_S)
        await gateway.send("POST", "/events", 2)
        gateway.close()
        assert recording.bodies("/events") == [2]
