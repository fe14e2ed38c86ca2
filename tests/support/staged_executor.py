"""An executor that does what each turn's `parameters["steps"]` say: for every way in which an executor can behave.

A step is a list: the name of a `do_…` method below, then its arguments. After its steps a turn is completed, unless one
of them was `silent`. Standard library alone, and little of it at the top, since it is started for most tests anew.
`tests/support/command_executor.py` puts it into a home, with the `#!` line that it has not here.
"""

import json
import os
import sys
from typing import Any

ENVIRONMENT_FILE = "/proc/self/environ"
"""What the process was started with, and not what its interpreter has added since."""
STDOUT, STDERR = 1, 2


class Stage:
    def __init__(self, invocation: dict[str, Any]) -> None:
        self.session_id = invocation["session_id"]
        self.message: dict[str, Any] = invocation
        self.turns = 0
        self.answers: list[int] = []
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

    # What it tells of its session.

    def do_bind(self) -> None:
        self.tell("POST", "/bind", {"executor_session_id": f"exe-{os.getpid()}"})

    def do_event(self, text: str) -> None:
        self.tell_event(event_type="message", role="assistant", content=[{"type": "text", "text": text}])

    def do_metadata(self, fields: dict[str, Any]) -> None:
        self.tell("PATCH", "/metadata", fields)

    def do_report(self) -> None:
        """A result: who and where it is, what it was told, and how the gateway has answered so far."""
        self.tell_event(
            event_type="result",
            result_data={
                "pid": os.getpid(),
                "directory": os.getcwd(),  # noqa: PTH109 - pathlib costs more than all the rest of the start
                "environment": environment(),
                "message": self.message,
                "turns": self.turns,
                "answers": self.answers,
            },
        )

    def tell_event(self, **fields: Any) -> None:
        self.tell("POST", "/events", {"timestamp": timestamp(), **fields})

    def tell(self, method: str, path: str, fields: dict[str, Any]) -> None:
        from http.client import HTTPConnection

        address, _, prefix = os.environ["AGENT_ORCHESTRATOR_API_URL"].removeprefix("http://").partition("/")
        connection = HTTPConnection(address, timeout=60)
        connection.request(method, f"/{prefix}{path}", json.dumps({"session_id": self.session_id, **fields}))
        self.answers.append(connection.getresponse().status)
        connection.close()

    # What it writes.

    def do_say(self, text: str, times: int = 1) -> None:
        """Each character is one byte on stdout, also those that make no UTF-8."""
        write(STDOUT, text.encode("latin-1"), times)

    def do_complain(self, text: str, times: int = 1) -> None:
        write(STDERR, text.encode("latin-1"), times)

    def do_complete(self) -> None:
        write(STDOUT, b'{"type": "turn_complete", "result": ""}\n')

    def do_silent(self) -> None:
        self.is_silent = True

    # What it does besides.

    def do_afterwards(self, *steps: list[Any]) -> None:
        """When the turn is complete, and before the next one is read."""
        self.afterwards.extend(steps)

    def do_close(self, descriptor: int) -> None:
        os.close(descriptor)

    def do_tell_pid(self, fifo: str) -> None:
        write_line(fifo, str(os.getpid()))

    def do_await(self, fifo: str) -> None:
        with open(fifo, "rb", buffering=0) as gate:  # noqa: PTH123 - see do_report
            gate.readline()

    def do_spawn(self, fifo: str) -> None:
        """A process of the same group that would stay, and whose id is told."""
        child = os.posix_spawn("/bin/sh", ["sh", "-c", "trap '' TERM HUP; while :; do sleep 1000; done"], os.environ)
        write_line(fifo, str(child))

    def do_leave(self, told: str, gate: str) -> None:
        """A process that is in no group of the runner's and holds all streams open, until it is let go."""
        has_left, leaves = os.pipe()
        if os.fork() == 0:
            os.setsid()
            os.write(leaves, b"!")
            write_line(told, str(os.getpid()))
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


def timestamp() -> str:
    import time

    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
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
    stage = Stage(invocation)
    stage.take_turn(invocation)
    while line := sys.stdin.buffer.readline():
        message = json.loads(line)
        if message["type"] != "shutdown":
            stage.take_turn(message)
        elif not stage.ignores_shutdown:
            return


if __name__ == "__main__":
    main()
