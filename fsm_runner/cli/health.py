"""`fsm-runner health`."""

from pathlib import Path

from fsm_runner.app.health import SOCKET_FILE, query_all
from fsm_runner.app.local_socket import is_unreachable, sockets
from fsm_runner.cli.output import say, show
from fsm_runner.errors import EXIT_FAILED, EXIT_OK
from fsm_runner.util import event_loop


def show_health(state_dir: Path) -> int:
    """Print a line for each running runner. Return exit code 0 if there is one and all are healthy."""
    answers = event_loop.run(query_all(sockets(state_dir, SOCKET_FILE)))
    for name, answer in answers.items():
        show(f"{name}: {answer}")
    if not answers:
        say(f"no runner is at work with a journal in {state_dir}")
        if is_unreachable(state_dir, SOCKET_FILE):
            say(f"{state_dir} is too long for the path of a socket on this system: use a shorter --state-dir")
    return EXIT_OK if answers and all(answer.is_healthy for answer in answers.values()) else EXIT_FAILED
