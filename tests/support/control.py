"""A client of the control socket as a program of its own, which writes the answer to a file."""

import sys

from fsm_runner.app.control_requests import Decide
from fsm_runner.protocol.approvals import Decided, ListedApproval
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.runtime.workflow.approvals import PendingApproval

CLIENT = """
import os, socket, sys
folder, request, answer = sys.argv[1:]
os.chdir(folder)
descriptor = os.open(answer, os.O_WRONLY)
{first}
connection = socket.socket(socket.AF_UNIX)
try:
    connection.connect("control.sock")
except PermissionError:
    answered = b"denied"
else:
    {before}
    connection.sendall(request.encode() + b"\\n")
    answered = connection.makefile("rb").readline()
os.write(descriptor, answered.rstrip(b"\\n") + b"\\n")
"""


def client(*, first: str = "pass", before: str = "pass") -> list[str]:
    """The command without its arguments: the folder, the request, and the file or pipe for the answer.

    `first`: Python that runs before the connection. `before`: between the connection and the request.
    """
    return [sys.executable, "-I", "-S", "-c", CLIENT.format(first=first, before=before)]


def decide_request(run_id: str = "run_1", *, approved: bool = True) -> str:
    return encode_json(Decide(run_id=run_id, approved=approved)).decode()


def listed(run_id: str = "run_1", visit: int = 1) -> ListedApproval:
    return ListedApproval(
        run_id=run_id,
        session_id="ses_1",
        workflow="ask-first",
        state="ask",
        question="Merge?",
        since="2026-03-01T15:00:00.000000Z",
        visit=visit,
    )


def pending(run_id: str = "run_1") -> PendingApproval:
    """One whose decision is written at once."""

    def write(_: Decided) -> None:
        approval.is_recorded = True
        approval.ended.set()

    approval = PendingApproval(listed(run_id), None, write)
    return approval
