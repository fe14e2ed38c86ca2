"""An executor that performs the steps in each turn's `parameters["steps"]`, to simulate any behaviour of executors.

A step is a list: the name of a `do_…` method, then its arguments. A turn is completed after its steps, unless one of
them was `silent`. Most tests start this executor, so it imports little of the standard library and nothing else.
`tests/support/command_executor.py` copies it into a home and adds the `#!` line.
"""

import json
import os
import sys
from typing import Any

ENVIRONMENT_FILE = "/proc/self/environ"
"""The environment at the start of the process, without changes by its interpreter."""
STDOUT, STDERR = 1, 2


class ScriptedExecutor:
    def __init__(self, invocation: dict[str, Any]) -> None:
        self.session_id = invocation["session_id"]
        self.message: dict[str, Any] = invocation
        self.turns = 0
        self.statuses: list[int] = []
        self.ignores_shutdown = False
        self.is_silent = False
        self.afterwards: list[list[Any]] = []

    def take_turn(self, message: dict[str, Any]) -> None:
        self.message = message
        self.turns += 1
        self.is_silent = False
        self.afterwards = []
        self.perform(message["parameters"].get("steps", []))
        if not self.is_silent:
            self.do_complete()
        self.perform(self.afterwards)

    def perform(self, steps: list[list[Any]]) -> None:
        for name, *arguments in steps:
            getattr(self, f"do_{name}")(*arguments)

    # Messages to the gateway.

    def do_bind(self) -> None:
        self.send("POST", "/bind", {"executor_session_id": f"exe-{os.getpid()}"})

    def do_event(self, text: str) -> None:
        self.send_event(event_type="message", role="assistant", content=[{"type": "text", "text": text}])

    def do_result(self, fields: dict[str, Any]) -> None:
        """Send a result with `result_text` or `result_data`."""
        self.send_event(event_type="result", **fields)

    def do_long_result(self, text: str, times: int) -> None:
        self.do_result({"result_text": text * times})

    def do_metadata(self, fields: dict[str, Any]) -> None:
        self.send("PATCH", "/metadata", fields)

    def do_limit(self, resets_in_s: float | None = None, scope: str = "credential") -> None:
        """Report a limit of the provider. None: the time of its reset is unknown."""
        resets_at = None if resets_in_s is None else timestamp(resets_in_s)
        self.do_metadata({"limit": {"kind": "scripted", "resets_at": resets_at, "scope": scope}})

    def do_report(self) -> None:
        """Send a result with process id, folder, environment, last message and the gateway statuses so far."""
        self.send_event(
            event_type="result",
            result_data={
                "pid": os.getpid(),
                "directory": os.getcwd(),  # noqa: PTH109 - pathlib costs more than all the rest of the start
                "environment": environment(),
                "message": self.message,
                "turns": self.turns,
                "answers": self.statuses,
            },
        )

    def send_event(self, **fields: Any) -> None:
        self.send("POST", "/events", {"timestamp": timestamp(), **fields})

    def do_start(self, agent_name: str, steps: list[list[Any]]) -> None:
        """Start a child session whose first turn has these steps."""
        parameters = {"steps": steps}
        self.request("POST", "/runs", {"type": "start_session", "agent_name": agent_name, "parameters": parameters})

    def send(self, method: str, path: str, fields: dict[str, Any]) -> None:
        self.request(method, path, {"session_id": self.session_id, **fields})

    def do_show_session(self) -> None:
        """Send a result with the answer to a request for the executor's own session."""
        self.send_event(
            event_type="result", result_data=json.loads(self.request("GET", f"/sessions/{self.session_id}", {}))
        )

    def request(self, method: str, path: str, fields: dict[str, Any]) -> bytes:
        from http.client import HTTPConnection

        address, _, prefix = os.environ["AGENT_ORCHESTRATOR_API_URL"].removeprefix("http://").partition("/")
        connection = HTTPConnection(address, timeout=60)
        connection.request(method, f"/{prefix}{path}", None if method == "GET" else json.dumps(fields))
        answer = connection.getresponse()
        self.statuses.append(answer.status)
        body = answer.read()
        connection.close()
        return body

    # Output.

    def do_say(self, text: str, times: int = 1) -> None:
        """Write each character as one byte, so that the output need not be UTF-8."""
        write(STDOUT, text.encode("latin-1"), times)

    def do_complain(self, text: str, times: int = 1) -> None:
        write(STDERR, text.encode("latin-1"), times)

    def do_complete(self) -> None:
        write(STDOUT, b'{"type": "turn_complete", "result": ""}\n')

    def do_limited(self) -> None:
        """End the turn at a limit, which a step `limit` or `metadata` has reported."""
        write(STDOUT, b'{"type": "turn_complete", "result": "", "limited": true}\n')
        self.is_silent = True

    def do_write(self, file: str, text: str) -> None:
        with open(file, "w") as opened:  # noqa: PTH123 - see do_report
            opened.write(text)

    def do_silent(self) -> None:
        self.is_silent = True

    # Other behaviour.

    def do_afterwards(self, *steps: list[Any]) -> None:
        """Perform these steps after the turn is completed, before the next message is read."""
        self.afterwards.extend(steps)

    def do_close(self, descriptor: int) -> None:
        os.close(descriptor)

    def do_tell_pid(self, fifo: str) -> None:
        write_line(fifo, str(os.getpid()))

    def do_await(self, fifo: str) -> None:
        with open(fifo, "rb", buffering=0) as gate:  # noqa: PTH123 - see do_report
            gate.readline()

    def do_spawn(self, fifo: str) -> None:
        """Start a process in the same group that ignores SIGTERM, and write its id to the FIFO."""
        child = os.posix_spawn("/bin/sh", ["sh", "-c", "trap '' TERM HUP; while :; do sleep 1000; done"], os.environ)
        write_line(fifo, str(child))

    def do_leave(self, pid_fifo: str, gate: str) -> None:
        """Start a process in another session that holds all streams open until it can read from `gate`."""
        has_left, leaves = os.pipe()
        if os.fork() == 0:
            os.setsid()
            os.write(leaves, b"!")
            write_line(pid_fifo, str(os.getpid()))
            self.do_await(gate)
            os._exit(0)
        os.read(has_left, 1)

    def do_ignore_sigterm(self) -> None:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def do_ignore_shutdown(self) -> None:
        self.ignores_shutdown = True

    def do_exit(self, code: int) -> None:
        os._exit(code)

    def do_die(self) -> None:
        os.kill(os.getpid(), 9)


def environment() -> dict[str, str]:
    if not os.path.exists(ENVIRONMENT_FILE):  # noqa: PTH110 - see do_report
        return dict(os.environ)
    with open(ENVIRONMENT_FILE, "rb") as file:  # noqa: PTH123 - see do_report
        pairs = (os.fsdecode(entry).partition("=") for entry in file.read().split(b"\0") if entry)
        return {name: value for name, _, value in pairs}


def timestamp(in_s: float = 0) -> str:
    import time

    seconds, nanoseconds = divmod(time.time_ns() + int(in_s * 1e9), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"


def write(descriptor: int, content: bytes, times: int = 1) -> None:
    for _ in range(times):
        rest = content
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def write_line(fifo: str, line: str) -> None:
    with open(fifo, "w") as pipe:  # noqa: PTH123 - see do_report
        pipe.write(f"{line}\n")


def main() -> None:
    invocation = json.loads(sys.stdin.buffer.readline())
    executor = ScriptedExecutor(invocation)
    executor.take_turn(invocation)
    while line := sys.stdin.buffer.readline():
        message = json.loads(line)
        if message["type"] != "shutdown":
            executor.take_turn(message)
        elif not executor.ignores_shutdown:
            return


if __name__ == "__main__":
    main()
