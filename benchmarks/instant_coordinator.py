"""A coordinator that responds at once, in a process of its own, so that a benchmark measures only the runner.

    python -m benchmarks.instant_coordinator COUNT IN_FLIGHT AGENT PARAMETERS_JSON [WORKFLOW]

Prints its port. Hands out COUNT runs, with at most IN_FLIGHT of them not reported yet. Otherwise it holds the poll.
Two runs that name the workflow alternate with two that do not (`has_workflow`): the end of a run takes a part of the
time of the next one, which is then as often of the same kind as of the other.
"""

import asyncio
import json
import sys

REGISTERED = json.dumps(
    {"runner_id": "r", "poll_endpoint": "/runner/runs", "poll_timeout_seconds": 30, "heartbeat_interval_seconds": 60}
)
REPORTS = ("completed", "failed", "stopped")


def has_workflow(run_id: str) -> bool:
    return int(run_id[-6:]) % 4 < 2


class Work:
    """The remaining runs, and the poll that waits for one."""

    def __init__(self, count: int, in_flight: int, agent: str, parameters: str, workflow: str | None) -> None:
        self.remaining = count
        self.free_slots = in_flight
        self.waiting_poll: InstantHttp | None = None
        self._agent = agent
        self._parameters = parameters
        self._workflow = workflow

    def next_run(self) -> str | None:
        if self.remaining == 0 or self.free_slots == 0:
            return None
        self.remaining -= 1
        self.free_slots -= 1
        name = f"{self.remaining:06d}"
        workflow = f', "workflow": "{self._workflow}"' if self._workflow and has_workflow(name) else ""
        blueprint = f'{{"name": "{self._agent}", "command": "commands/{self._agent}"{workflow}}}'
        return (
            f'{{"run": {{"run_id": "run_{name}", "session_id": "ses_{name}", "type": "start_session",'
            f' "agent_name": "{self._agent}", "parameters": {self._parameters}, "execution_mode": "sync",'
            f' "resolved_agent_blueprint": {blueprint}}}}}'
        )

    def record_report(self) -> None:
        self.free_slots += 1
        if self.waiting_poll is not None and (run := self.next_run()) is not None:
            self.waiting_poll.respond(run)
            self.waiting_poll = None


class InstantHttp(asyncio.Protocol):
    """The part of HTTP/1.1 that the runner's client uses: keep-alive and requests with a content length."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        if end and len(rest) >= length:
            self._received = rest[length:]
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            self._handle(method, path.partition("?")[0])

    def _handle(self, method: str, path: str) -> None:
        if path == "/runner/register":
            self.respond(REGISTERED)
        elif method == "GET" and path == "/runner/runs":
            run = self._work.next_run()
            if run is None:
                self._work.waiting_poll = self
            else:
                self.respond(run)
        else:
            self.respond('{"ok": true}')
            if path.endswith(REPORTS):
                self._work.record_report()
        if method == "DELETE" and self._work.waiting_poll is not None:
            self._work.waiting_poll.respond('{"deregistered": true}')

    def respond(self, body: str) -> None:
        assert self._transport is not None
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(body), body.encode())
        )


async def main() -> None:
    count, in_flight, agent, parameters, *workflow = sys.argv[1:]
    work = Work(int(count), int(in_flight), agent, parameters, next(iter(workflow), None))
    server = await asyncio.get_running_loop().create_server(lambda: InstantHttp(work), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
