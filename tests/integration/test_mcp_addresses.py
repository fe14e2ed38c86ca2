"""The MCP server identifies callers by the addresses that they call."""

import string

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.mcp_server.caller import PATH, Addresses
from fsm_runner.mcp_server.server import McpServer
from tests.support.embedded import embedded_coordinator
from tests.support.mcp import QUICK, TOOL_NAMES, call, mcp_client

ADDRESSES = Addresses(open_to_all=False)
OURS = ADDRESSES.path_of("ses_own")


@given(st.text(max_size=80))
def test_each_session_has_its_own_address(session_id: str) -> None:
    assert ADDRESSES.session_of(ADDRESSES.path_of(session_id)) == session_id
    assert Addresses(open_to_all=True).session_of(ADDRESSES.path_of(session_id)) is None


@given(st.integers(0, len(OURS) - 1), st.sampled_from(string.ascii_letters + string.digits + "-_./=%\0é"))
def test_a_modified_address_belongs_to_no_other_session(place: int, char: str) -> None:
    changed = OURS[:place] + char + OURS[place + 1 :]
    # The last base64 character has unused bits.
    assert ADDRESSES.session_of(changed) in {None, "ses_own"}


@given(st.text())
def test_an_unsigned_path_is_not_an_address(text: str) -> None:
    assert ADDRESSES.session_of(f"{PATH}/{text}") is None
    assert ADDRESSES.session_of(text) is None


async def test_the_caller_is_the_session_of_the_address_whatever_the_headers_say() -> None:
    async with (
        embedded_coordinator() as coordinator,
        CoordinatorApi(coordinator.server.url) as api,
        McpServer(api, limits=QUICK) as server,
        mcp_client(server.url_of("ses_own"), X_Agent_Session_Id="ses_victim") as client,
    ):
        assert [tool.name for tool in (await client.list_tools()).tools] == TOOL_NAMES
        await coordinator.register(agents=[])
        started = await call(client, "start_agent_session", parameters={"prompt": "go"}, mode="async_callback")
        (run,) = [each for each in await api.runs() if each.session_id == started["session_id"]]
        assert run.parent_session_id == "ses_own"


@pytest.mark.parametrize(
    "path",
    [PATH, f"{PATH}/", "/", f"{PATH}/ses_own", f"{PATH}/c2VzX293bg.AAAA", OURS],
    ids=["bare", "slash", "root", "name", "forged", "of another server"],
)
async def test_paths_that_this_server_did_not_sign_are_a_404(path: str) -> None:
    async with (
        CoordinatorApi("http://127.0.0.1:9") as api,
        McpServer(api, limits=QUICK) as server,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        origin = server.url.removesuffix(PATH)
        answer = await http.post(origin + path, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert answer.status_code == 404
