"""Whatever a client sends to the control socket is a request or a usage error."""

import asyncio
import string

from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.app import control_requests
from fsm_runner.app.control_requests import Decide, ListApprovals
from fsm_runner.app.control_socket import REQUEST_LIMIT_BYTES, ControlServer
from fsm_runner.errors import UsageError
from fsm_runner.process.tree.peer import RunProcesses
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.runtime.workflow.approvals import Approvals

SERVER = ControlServer(control_requests.handlers(Approvals()), RunProcesses())
FIELDS = ("request", "run_id", "approved", "comment", "other")
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), part, max_size=4),
    max_leaves=8,
)
requests = st.builds(
    lambda kind, fields: encode_json({**fields, "request": kind}),
    st.sampled_from(["approve", "approvals", "rerun", ""]),
    st.dictionaries(st.sampled_from(FIELDS), json, max_size=4),
)
lines = requests | st.builds(encode_json, json) | st.binary(max_size=50) | st.text(string.printable).map(str.encode)


def read(sent: bytes) -> object:
    async def work() -> object:
        reader = asyncio.StreamReader(limit=REQUEST_LIMIT_BYTES)
        reader.feed_data(sent)
        reader.feed_eof()
        try:
            return await SERVER._read(reader)
        except UsageError as error:
            str(error).encode()
            return error

    return asyncio.run(work())


@given(lines)
def test_any_line_is_a_request_or_a_usage_error(line: bytes) -> None:
    assert isinstance(read(line + b"\n"), Decide | ListApprovals | UsageError)


@given(st.text(max_size=100), st.booleans(), st.text(max_size=100))
def test_a_valid_request_is_read(run_id: str, approved: bool, comment: str) -> None:
    line = encode_json(Decide(run_id=run_id, approved=approved, comment=comment)) + b"\n"
    assert isinstance(read(line), Decide)
