"""How the MCP server reads context headers, reports failures and truncates results."""

import msgspec
import pytest

from fsm_runner.coordinator_client.errors import CoordinatorError, NotAuthenticated, NotRegistered, Refused, Unreachable
from fsm_runner.mcp_server.caller import caller_of
from fsm_runner.mcp_server.limits import LIMITS
from fsm_runner.mcp_server.results import ToolFailure, failure_of, first_fitting, result_of, truncate
from fsm_runner.mcp_server.tools import START
from fsm_runner.protocol.json_tree import is_deeper
from fsm_runner.protocol.wire import SessionResult

URL = "http://coordinator.internal:8765/runs"


def refused(detail: object, status: int = 400) -> Refused:
    return Refused(f"POST {URL}: HTTP {status}", status, msgspec.json.encode({"detail": detail}))


def test_missing_headers_are_an_empty_context() -> None:
    caller = caller_of([(b"x-agent-session-id", b" "), (b"x-agent-tags", b" ,, "), (b"x-additional-demands", b"")])
    assert caller == caller_of([])
    assert (caller.session_id, caller.tags, caller.additional_demands) == (None, (), None)


def test_headers_are_decoded_as_utf8_or_latin1() -> None:
    caller = caller_of(
        [
            (b"x-agent-session-id", b" ses_1 "),
            (b"x-agent-tags", "gr\u00fcn, b".encode()),
            (b"x-additional-demands", '{"tags": ["gr\u00fcn"]}'.encode("latin-1")),
        ]
    )
    assert (caller.session_id, caller.tags) == ("ses_1", ("gr\u00fcn", "b"))
    assert caller.additional_demands == {"tags": ["gr\u00fcn"]}


@pytest.mark.parametrize("value", [b"[]", b"null", b"{", b"\xff", b"1" * 5000, b'{"a":' * 5000])
def test_the_error_about_invalid_demands_names_the_header(value: bytes) -> None:
    with pytest.raises(ToolFailure, match="X-Additional-Demands"):
        _ = caller_of([(b"x-additional-demands", value)]).additional_demands


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Unreachable(f"{URL}: connection refused"), "cannot be reached"),
        (NotRegistered(f"{URL}: Runner not registered"), "cannot be reached"),
        (NotAuthenticated(f"{URL}: no", 401), "credentials"),
        (Refused(f"{URL}: HTTP 418", 418, b"\xff"), "HTTP status 418"),
        (refused("Session not found", 404), "Session not found"),
        (refused({"error": "procedural_agent_no_resume", "message": "Cannot be resumed"}), "Cannot be resumed"),
        (refused({"error": "some_code"}), "some_code"),
        (refused({"other": 1}), "without a reason"),
        (refused([{"loc": ["body", "type"], "msg": "Field required"}], 422), "invalid: type: Field required"),
    ],
)
def test_a_failure_contains_no_internals(fault: CoordinatorError, text: str) -> None:
    failure = failure_of(fault, session_id="ses_1")
    assert text in failure.result["error"]
    assert "coordinator.internal" not in failure.result["error"]
    assert failure.result["session_id"] == "ses_1"


def test_errors_of_parameters_are_listed_up_to_a_limit() -> None:
    errors = [{"path": "$.a", "message": "is no text"}, {"path": ["b", 0], "message": "is too long"}]
    errors += [{"message": f"error {n}", "path": ""} for n in range(30)]
    detail = {"error": "parameter_validation_failed", "validation_errors": errors, "parameters_schema": {"type": "x"}}
    result = failure_of(refused(detail)).result
    lines = result["error"].splitlines()
    assert lines[1:4] == ["- a: is no text", "- b.0: is too long", "- parameters: error 0"]
    assert lines[-1] == "- and 12 more"
    assert len(lines) == 22
    assert result["parameters_schema"] == {"type": "x"}


def test_a_text_at_the_limit_is_not_truncated() -> None:
    assert truncate("x" * 10, 10) == "x" * 10
    assert truncate("x" * 1010, 10) == "x" * 10 + "\n\n[truncated: 1,000 more characters were omitted]"


def test_an_empty_result_has_null_fields() -> None:
    nothing = {"session_id": "ses_1", "result_text": None, "result_data": None}
    assert result_of("ses_1", SessionResult(), LIMITS) == nothing


def test_as_many_items_are_listed_as_fit() -> None:
    items = [{"n": 1}, {"n": 2}, {"n": 3}]
    assert first_fitting(items, 21) == items
    assert first_fitting(items, 20) == items[:2]
    assert first_fitting(items, 0) == []


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_lone_surrogates_in_the_arguments_are_refused(text: str) -> None:
    for arguments in ({"parameters": {"x": text}}, {"parameters": {}, "agent_name": text}, {text: 1}):
        with pytest.raises(ToolFailure, match="start_agent_session"):
            START.decode(arguments)


def test_deeply_nested_arguments_are_refused() -> None:
    parameters: dict[str, object] = {}
    for _ in range(100_000):
        parameters = {"x": parameters}
    with pytest.raises(ToolFailure, match="start_agent_session"):
        START.decode({"parameters": parameters})


@pytest.mark.parametrize(("value", "levels"), [({}, 0), ([[]], 1), ({"a": [1, {"b": "c"}], "d": {}}, 3)])
def test_depth_is_counted_in_objects_and_lists(value: object, levels: int) -> None:
    assert not is_deeper(value, levels)
    assert levels == 0 or is_deeper(value, levels - 1)
