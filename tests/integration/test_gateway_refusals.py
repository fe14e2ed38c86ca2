"""Requests that are not open to executors, and requests without a valid endpoint."""

import httpx
import msgspec
import pytest

from fsm_runner.gateway.endpoint import LIMITS
from tests.support.gateway import PATIENT, Bench, at_target, bench, executor_at, path_of, raw_exchange

NOT_FOUND = {"detail": "Not Found"}


def is_the_one_404(answer: httpx.Response) -> bool:
    extra = set(answer.headers) - {"content-type", "content-length"}
    return answer.status_code == 404 and answer.json() == NOT_FOUND and not extra


async def forbidden(b: Bench) -> list[tuple[str, str]]:
    runner_id = (await b.coordinator.http.get("/runners")).json()["runners"][0]["runner_id"]
    runs = {run["session_id"]: run["run_id"] for run in (await b.coordinator.http.get("/runs")).json()["runs"]}
    return [
        ("DELETE", f"/runners/{runner_id}?self=true"),
        ("DELETE", f"/runners/{runner_id}"),
        ("DELETE", f"/sessions/{b.other}"),
        ("DELETE", f"/sessions/{b.own}"),
        ("POST", "/runner/register"),
        ("GET", f"/runner/runs?runner_id={runner_id}"),
        ("POST", "/runner/heartbeat"),
        ("POST", f"/runner/runs/{runs[b.own]}/completed"),
        ("POST", f"/runner/runs/{runs[b.other]}/failed"),
        ("POST", f"/runner/sessions/{b.own}/status"),
        ("GET", "/runners"),
        ("GET", "/runs"),
        ("GET", "/runs?status=claimed"),
        ("GET", "/sessions"),
        ("GET", "/scripts/x/download"),
        ("GET", "/sse/sessions"),
        ("GET", "/sse/sessions?session_id="),
        ("GET", f"/sse/sessions?session_id={b.other}"),
        ("GET", f"/sessions/{b.other}"),
        *(("GET", f"/sessions/{b.other}/{part}") for part in ("status", "result", "events", "affinity")),
        ("GET", f"/sessions/{b.own}/other"),
        ("GET", f"/runs/{runs[b.other]}"),
        ("POST", f"/runs/{runs[b.other]}/stop"),
        ("POST", f"/sessions/{b.other}/stop"),
        ("POST", f"/runs/{runs[b.own]}/stop"),
        ("POST", f"/sessions/{b.own}/stop"),
        ("GET", "/runs/run_unknown"),
        ("GET", "/sessions/ses_unknown"),
        ("PUT", f"/sessions/{b.own}"),
        ("PATCH", f"/sessions/{b.own}"),
        ("GET", "/bind"),
        ("GET", "/events"),
        ("POST", "/metadata"),
        ("POST", "/health"),
        ("OPTIONS", "/events"),
        ("POST", "/agents"),
        ("GET", ""),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
    ]


async def test_requests_that_are_not_open_are_refused_and_change_nothing() -> None:
    async with bench() as b:
        everything = (
            await b.coordinator.http.get("/sessions"),
            await b.coordinator.http.get("/runs"),
            await b.coordinator.http.get("/runners"),
        )
        for method, path in await forbidden(b):
            answer = await b.http.request(method, b.endpoint.url + path)
            assert answer.status_code == 403, (method, path)
            assert "open to executors" in answer.json()["detail"], (method, path)
        assert {call.method for call in b.proxy.calls} == {"GET"}, "only look-ups of owners"
        assert {call.path.split("/")[1] for call in b.proxy.calls} <= {"sessions", "runs"}
        for before in everything[:2]:
            assert (await b.coordinator.http.get(before.request.url.path)).json() == before.json()
        assert len((await b.coordinator.http.get("/runners")).json()["runners"]) == 2


async def test_another_session_and_a_missing_one_get_the_same_refusal() -> None:
    async with bench() as b:
        existing = await b.http.get(f"/sessions/{b.other}/result")
        missing = await b.http.get("/sessions/ses_0000000000000000/result")
        assert existing.status_code == missing.status_code == 403
        assert existing.text.replace(b.other, "X") == missing.text.replace("ses_0000000000000000", "X")
        assert (
            existing.headers == missing.headers or existing.headers["content-type"] == missing.headers["content-type"]
        )


async def test_a_refusal_names_method_and_path_but_not_the_token() -> None:
    async with bench() as b:
        answer = await b.http.delete("/runners/r?self=true")
        assert answer.json() == {"detail": "DELETE /runners/r is not open to executors"}


async def test_without_a_valid_token_every_request_is_the_same_404() -> None:
    async with bench() as b:
        port = httpx.URL(b.endpoint.url).port
        token = path_of(b.endpoint)[1:]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            for target in [
                b"/",
                b"/health",
                b"/events",
                b"/bind",
                b"*",
                b"/" + token[:-1] + b"/health",
                b"/" + token + b"x/health",
                b"/" + token.swapcase() + b"/health",
                b"//" + token + b"/health",
                b"/x/" + token + b"/health",
                b"/x/../" + token + b"/health",
                b"/%" + token[:1].hex().encode() + token[1:] + b"/health",
                b"/" + token + b"%2Fhealth",
                b"/" + token + b"%20/health",
                b"http://127.0.0.1/" + token + b"/health",
            ]:
                for method in ("GET", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
                    answer = await at_target(http, method, target, content=b"{}" if method == "POST" else None)
                    assert is_the_one_404(answer), (method, target)
        assert b.proxy.calls == []


async def test_a_closed_endpoint_is_a_404() -> None:
    async with bench() as b:
        second = b.endpoints.endpoint(b.own)
        async with executor_at(second) as http:
            assert (await http.get("/health")).status_code == 200
            second.close()
            second.close()
            assert is_the_one_404(await http.get("/health"))
            assert is_the_one_404(await http.post("/events", json={"session_id": b.own}))
            assert (await b.http.get("/health")).status_code == 200, "the session's other endpoint stays open"


async def test_each_endpoint_opens_its_own_session() -> None:
    async with bench() as b:
        theirs = b.endpoints.endpoint(b.other)
        assert theirs.url != b.endpoint.url
        async with executor_at(theirs) as http:
            assert (await http.get(f"/sessions/{b.other}")).json()["session"]["session_id"] == b.other
            assert (await http.get(f"/sessions/{b.own}")).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [{"host": "example.com"}, {"host": "127.0.0.1.example.com:80"}, {"origin": "http://127.0.0.1"}, {"origin": "null"}],
)
async def test_web_pages_and_other_host_names_get_the_same_404(headers: dict[str, str]) -> None:
    async with bench() as b:
        assert is_the_one_404(await b.http.get("/health", headers=headers))
        assert (await b.http.get("/health", headers={"host": "localhost:1"})).status_code == 200


@pytest.mark.parametrize(
    ("version_and_headers", "status"),
    [
        (b"1.0\r\n", b"200"),
        (b"1.0\r\nHost: localhost\r\n", b"200"),
        (b"1.0\r\nHost: example.com\r\n", b"404"),
        (b"1.0\r\nOrigin: null\r\n", b"404"),
        (b"1.1\r\n", b"400"),
    ],
)
async def test_only_http_1_0_may_omit_the_host(version_and_headers: bytes, status: bytes) -> None:
    async with bench() as b:
        request = b"GET %s/health HTTP/%s\r\n" % (path_of(b.endpoint), version_and_headers)
        assert (await raw_exchange(b.endpoint.url, request)).startswith(b"HTTP/1.1 %s " % status)


@pytest.mark.parametrize(
    "tail",
    [
        b"/sessions/{own}/../{other}/result",
        b"/sessions/{own}/%2e%2e/{other}/result",
        b"/sessions/{own}%2F..%2F{other}/result",
        b"/sessions/{own}%252F..%252F{other}/result",
        b"/sessions/{own}\\..\\{other}/result",
        b"/sessions/./{other}",
        b"//sessions/{other}",
        b"/sessions//{other}",
        b"/sessions/{own}/",
        b"/sessions/{own}/%00",
        b"/sessions/%c0%ae%c0%ae/{other}",
        b"/sse/sessions?session_id={own}&session_id={other}",
        b"/sse/sessions?session_id={other}&session_id={own}",
        b"/",
    ],
)
async def test_an_ambiguous_path_is_a_400_and_is_not_forwarded(tail: bytes) -> None:
    async with bench() as b:
        target = path_of(b.endpoint) + tail.replace(b"{own}", b.own.encode()).replace(b"{other}", b.other.encode())
        assert (await at_target(b.http, "GET", target)).status_code == 400
        assert b.proxy.calls == []


async def test_no_more_children_are_remembered_than_the_limit() -> None:
    async with bench(msgspec.structs.replace(PATIENT, known_children=2)) as b:
        children = [(await b.child())["session_id"] for _ in range(3)]
        for child in [*children, *children]:
            assert (await b.http.get(f"/sessions/{child}/status")).status_code == 200
        look_ups = b.proxy.calls_for("GET", f"/sessions/({'|'.join(children)})")
        assert len(look_ups) == 6
        await b.http.get(f"/sessions/{children[2]}/status")
        assert len(b.proxy.calls_for("GET", f"/sessions/({'|'.join(children)})")) == 6


def test_the_defaults_are_those_of_the_protocol() -> None:
    assert (LIMITS.body_bytes, LIMITS.hold_s) == (16 * 1024 * 1024, 2.0)
