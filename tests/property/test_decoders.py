"""Decoders of data from outside: each returns a value or raises a documented error."""

import asyncio
import contextlib
import copy
import io
import json
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from fsm_runner.app.build_executor import _procedural_config
from fsm_runner.cli.parameters import parse_parameters
from fsm_runner.cli.submission import create_run, say_outcome
from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import LoadedProfile, load_profile
from fsm_runner.config.settings import SETTINGS, RunnerConfig, load_config, read_dotenv
from fsm_runner.coordinator_client.api import CoordinatorApi, Polled, UnreadableRun
from fsm_runner.coordinator_client.errors import CoordinatorError, RegistrationConflict, Unreachable
from fsm_runner.coordinator_client.pool import ConnectionPool
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, UsageError
from fsm_runner.executors.procedural import result_data
from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.child.child import Exit
from fsm_runner.protocol import wire
from fsm_runner.scripts import store
from tests.support.script_archives import script_command

Json = Any

# What comes from outside.

texts = st.text(max_size=12) | st.sampled_from(
    ["", ".", "..", "../../x", "/etc/passwd", "nul\0", "x" * 300, "$", "é\u202e"]
)
plain_values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**63, 2**64, -(2**70), 10**40, 10**400, 1e308, -0.0, 5e-324])
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    plain_values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
DEPTHS = (60, 250, 900, 1_000, 100_000)
ODD_BYTES = [
    b"",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b"\x00",
    b"NaN",
    b"[1e400]",
    b'{"a": "\\ud800"}',
    b'{"\\udc00": 1}',
    b'"\xed\xa0\x80"',
    b'{"a": 1, "a": {}}',
    b"{} {}",
    b"1" * 5_000,
    b"-" * 5_000,
    *(opening * depth + closing * depth for depth in DEPTHS for opening, closing in [(b"[", b"]"), (b'{"a":', b"}")]),
]


def as_bytes(value: Json) -> bytes:
    return json.dumps(value).encode()


def places(value: Json, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of a value and of all that is in it."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*place, key))


@st.composite
def altered(draw: st.DrawFn, sound: Json) -> Json:
    """A sound value in which something is missing, or is something else."""
    value = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(places(value))))
        if not place:
            continue
        holder = value
        for key in place[:-1]:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.booleans()):
            del holder[place[-1]]
        else:
            holder[place[-1]] = draw(values)
    return value


@st.composite
def damaged(draw: st.DrawFn, sound: Json) -> bytes:
    """The text of a sound value with a few bytes cut out, put in or changed."""
    content = bytearray(as_bytes(sound))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        content[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=3))
    return bytes(content)


def contents(*sound: Json) -> st.SearchStrategy[bytes]:
    """Bytes that are near to sound ones, and bytes that are not."""
    near = [strategy for value in sound for strategy in (altered(value).map(as_bytes), damaged(value))]
    return st.one_of(
        *near,
        st.sampled_from([as_bytes(value) for value in sound]),
        values.map(as_bytes),
        st.binary(max_size=40),
        st.sampled_from(ODD_BYTES),
    )


AGENT = {
    "name": "a",
    "description": "d",
    "command": "c",
    "parameters_schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
    "mcp_servers": {"x": {"url": "u", "config": {}}},
    "tags": ["t"],
}
RUN = {
    "run_id": "run_1",
    "session_id": "ses_1",
    "type": "start_session",
    "agent_name": "a",
    "parameters": {"message": "hello", "n": [1, {"deep": None}]},
    "project_dir": "/p",
    "execution_mode": "sync",
    "resolved_agent_blueprint": AGENT,
    "status": "claimed",
    "error": "why",
}
POLLS: list[Json] = [
    {"run": RUN},
    {"stop_sessions": ["ses_1"]},
    {"sync_scripts": ["a"], "remove_scripts": ["b"]},
    {"deregistered": True},
]
REGISTERED = {
    "runner_id": "r",
    "poll_endpoint": "/runner/runs",
    "poll_timeout_seconds": 30,
    "heartbeat_interval_seconds": 60,
}
CREATED = {"run_id": "r", "session_id": "s", "status": "pending"}
RESULT = {"result_text": None, "result_data": {"message": "hello", "list": [1, 2.5, None]}}
EVENTS = {
    "events": [
        {"event_type": "message", "timestamp": "2026-01-01T00:00:00Z", "role": "user"},
        {"event_type": "result", "timestamp": "2026-01-01T00:00:01Z", "result_text": "hello"},
        {"event_type": "result", "timestamp": "2026-01-01T00:00:02Z", **RESULT},
    ]
}
CONFLICTS: list[Json] = [
    {"detail": {"error": "duplicate_runner", "runner_id": "r", "hostname": "h", "project_dir": "p", "message": "m"}},
    {"detail": {"error": "agent_name_collision", "agent_name": "a", "existing_runner_id": "o", "message": "m"}},
]
REJECTIONS: list[Json] = [
    {"detail": "no such thing"},
    {"detail": {"error": "procedural_agent_no_resume", "message": "m"}},
    {
        "detail": {
            "error": "parameter_validation_failed",
            "message": "m",
            "validation_errors": [
                {"path": ["a", 0], "message": "m", "schema_path": "s"},
                {"path": "$.b", "message": "m"},
            ],
            "parameters_schema": AGENT["parameters_schema"],
        }
    },
]
REGISTRATION = wire.Registration(
    hostname="h",
    project_dir="/p",
    executor_profile="echo",
    executor=wire.ExecutorInfo(type="procedural", command="c"),
)
PROFILE = {
    "type": "procedural",
    "command": "executors/procedural/ao-procedural-exec",
    "config": {"timeout": 5, "other": []},
    "agents_dir": "agents",
    "lifecycle": "one_shot",
}


# The coordinator's answers.


def api_that_is_answered(*answers: tuple[int, bytes]) -> CoordinatorApi:
    """An API whose calls get these answers, the last one again and again."""
    left = list(answers)

    def answer(_: httpx.Request) -> httpx.Response:
        status, content = left.pop(0) if len(left) > 1 else left[0]
        return httpx.Response(status, content=content)

    api = CoordinatorApi("http://localhost")
    transport = httpx.MockTransport(answer)
    api._transport._connections = api._transport._control_connections = ConnectionPool(
        lambda: httpx.AsyncClient(transport=transport), 1
    )
    return api


def outcome_of(work: Coroutine[Any, Any, Any], *documented: type[Exception]) -> Any:
    """The value, or the documented error, whose text can be shown."""
    try:
        value = asyncio.run(work)
    except documented as error:
        event(type(error).__name__)
        str(error).encode()
        return error
    event("a value")
    return value


Call = Callable[[CoordinatorApi], Coroutine[Any, Any, Any]]
DECODING_CALLS: list[tuple[Call, Any, list[Json]]] = [
    (lambda api: api.register(REGISTRATION), wire.Registered, [REGISTERED]),
    (lambda api: api.poll("r", 1), Polled, POLLS),
    (lambda api: api.heartbeat("r"), type(None), [{"ok": True}]),
    (lambda api: api.agent("a"), wire.Agent, [AGENT]),
    (lambda api: api.create_run(wire.RunRequest(type="start_session", parameters={})), wire.RunCreated, [CREATED]),
    (lambda api: api.run("r"), wire.Run, [RUN]),
    (lambda api: api.runs(), list, [{"runs": [RUN, RUN]}]),
    (lambda api: api.session_result("s"), wire.SessionResult, [RESULT]),
]


@pytest.mark.parametrize(("call", "form", "sound"), DECODING_CALLS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_response_is_a_value_or_an_error(call: Call, form: type[Any], sound: list[Json], data: st.DataObject) -> None:
    content = data.draw(contents(*sound))
    given_back = outcome_of(call(api_that_is_answered((200, content))), CoordinatorError)
    assert isinstance(given_back, form | CoordinatorError)


@pytest.mark.parametrize(("call", "form", "sound"), DECODING_CALLS)
def test_a_valid_response_is_a_value(call: Call, form: type[Any], sound: list[Json]) -> None:
    for value in sound:
        assert isinstance(asyncio.run(call(api_that_is_answered((200, as_bytes(value))))), form)


@settings(deadline=None)
@given(altered(RUN))
def test_a_claimed_run_is_never_lost_if_its_id_is_valid(run: Json) -> None:
    polled = outcome_of(api_that_is_answered((200, as_bytes({"run": run}))).poll("r", 1), CoordinatorError)
    run_id = run.get("run_id")
    if isinstance(run_id, str) and 1 <= len(run_id) <= 1_000 and _is_sound_text(run_id):
        assert isinstance(polled, Polled)
        assert isinstance(polled.run, wire.Run | UnreadableRun)
        assert polled.run.run_id == run_id
    else:
        assert isinstance(polled, CoordinatorError)


def _is_sound_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


@settings(deadline=None)
@given(st.sampled_from([400, 401, 403, 404, 409, 422, 500, 302, 204]), contents(*CONFLICTS, *REJECTIONS))
def test_a_rejection_is_an_error_whatever_its_body(status: int, content: bytes) -> None:
    fault = outcome_of(api_that_is_answered((status, content)).register(REGISTRATION), CoordinatorError)
    assert isinstance(fault, CoordinatorError)
    assert status == 409 or not isinstance(fault, RegistrationConflict)


@settings(deadline=None)
@given(contents(*REJECTIONS, *CONFLICTS))
def test_a_run_that_is_rejected_is_a_usage_error(content: bytes) -> None:
    request = wire.RunRequest(type="start_session", parameters={}, agent_name="a")
    error = outcome_of(create_run(api_that_is_answered((400, content)), request), UsageError, Unreachable)
    assert isinstance(error, UsageError | Unreachable)
    assert str(error)


@settings(deadline=None)
@given(st.sampled_from(["completed", "failed", "running"]), st.sampled_from([200, 200, 404]), contents(EVENTS))
@example("completed", 200, as_bytes(EVENTS))
def test_a_result_is_printed_as_text_or_one_line_of_json_or_left_out(
    status: str, result_status: int, content: bytes
) -> None:
    api = api_that_is_answered((200, as_bytes(RUN | {"status": status})), (result_status, content))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        code = outcome_of(say_outcome(api, "run_1"), CoordinatorError)
    if isinstance(code, CoordinatorError):
        assert said.getvalue() == ""
        return
    assert code == (EXIT_OK if status == "completed" else EXIT_FAILED)
    if not said.getvalue():
        return
    events = asyncio.run(api_that_is_answered((200, content)).session_events("ses_1"))
    results = [event for event in events if event.event_type == "result"]
    if said.getvalue() not in [f"{event.result_text}\n" for event in results]:
        assert said.getvalue().count("\n") == 1
        assert json.loads(said.getvalue()) in [
            value for event in results for value in (event.result_text, event.result_data)
        ]


# Files.


@contextlib.contextmanager
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, folder)
        for name in ("profiles", "agents"):
            (Path(folder) / name).mkdir()
        yield Path(folder)


def loaded_profile() -> LoadedProfile | None:
    try:
        return load_profile("p")
    except UsageError as error:
        str(error).encode()
        assert ".json: " in str(error)
        return None


@settings(deadline=None)
@given(contents(PROFILE))
def test_a_profile_is_loaded_or_reported_with_its_file(content: bytes) -> None:
    with home() as folder:
        (folder / "profiles" / "p.json").write_bytes(content)
        loaded = loaded_profile()
    event("loaded" if loaded else "refused")
    if loaded is not None:
        msgspec.json.encode(loaded.executor_info())


@settings(deadline=None)
@given(contents(AGENT))
def test_an_agent_is_loaded_or_reported_with_its_file(content: bytes) -> None:
    with home() as folder:
        (folder / "profiles" / "p.json").write_bytes(as_bytes(PROFILE))
        (folder / "agents" / "a.json").write_bytes(content)
        loaded = loaded_profile()
    event("loaded" if loaded else "refused")
    if loaded is not None:
        assert len(loaded.agents) == 1


@settings(deadline=None)
@given(altered({"timeout": 5}) | values)
@example({"timeout": 0})
@example({"timeout": -1})
def test_a_config_is_accepted_or_reported_with_its_file(config: Json) -> None:
    with home() as folder:
        (folder / "profiles" / "p.json").write_bytes(as_bytes(PROFILE | {"config": config}))
        loaded = loaded_profile()
        if loaded is None:
            return
    try:
        assert _procedural_config(loaded).timeout > 0
    except UsageError as error:
        assert str(error).startswith(f"{loaded.path}: config: ")


SCRIPT = {"name": "tool", "script_file": "run.sh", "description": "d", "parameters_schema": {}}


@settings(deadline=None)
@given(contents(SCRIPT))
def test_a_script_is_found_or_reported(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as project:
        folder = Path(project) / "scripts" / "tool"
        folder.mkdir(parents=True)
        (folder / "run.sh").write_text("#!/bin/sh\n")
        (folder / "script.json").write_bytes(content)
        try:
            command = script_command(Path(project), "tool")
        except store.BadScript as refusal:
            str(refusal).encode()
            event("refused")
            return
    event("found")
    assert Path(command[-1]).is_relative_to(folder.resolve())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(alphabet="AB=#'\"\\ \n\r${}é\0", max_size=30).map(str.encode))
def test_a_dotenv_file_is_read_or_reported_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".env").write_bytes(content)
    try:
        read_dotenv(tmp_path / ".env")
    except UsageError as error:
        assert str(error).startswith(f"{tmp_path}/.env: ")


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([setting.variable for setting in SETTINGS]),
        texts | st.text(alphabet="0123456789.e-_ :/h[]tp", max_size=12),
    )
)
def test_a_setting_is_read_or_reported_with_its_variable(environ: dict[str, str]) -> None:
    try:
        config = load_config({}, environ)
    except UsageError as error:
        str(error).encode()
        assert any(variable in str(error) for variable in environ)
    else:
        assert isinstance(config, RunnerConfig)
        assert config.project_dir.is_dir()


# A command's output.


@settings(deadline=None)
@given(
    contents({"a": [1, {"b": None}]}, RESULT),
    st.binary(max_size=20),
    st.integers(0, 255),
    st.sampled_from([8, 1 << 20]),
)
def test_any_output_of_a_command_is_a_valid_result(out: bytes, err: bytes, code: int, limit_bytes: int) -> None:
    stdout, stderr = BoundedCapture(limit_bytes), BoundedCapture(limit_bytes)
    stdout.add(out)
    stderr.add(err)
    data = result_data(code, Exit(code=code, signal=None, stdout=stdout, stderr=stderr))
    body = wire.ResultEvent(session_id="s", timestamp="t", result_data=data)
    assert msgspec.json.decode(msgspec.json.encode(body))["result_data"] == data
    if stdout.truncated:
        assert data["return_code"] == code


# Words of a command line.

types = st.sampled_from(["string", "integer", "number", "boolean", "null", "object", "array", "colour"])
key_schemas = st.recursive(
    st.fixed_dictionaries({}, optional={"type": types | st.lists(types, max_size=3)}) | values,
    lambda inner: st.fixed_dictionaries({"type": types | st.lists(types, max_size=3), "items": inner}),
    max_leaves=3,
)
schemas = st.none() | st.fixed_dictionaries(
    {}, optional={"properties": st.dictionaries(st.sampled_from("ab"), key_schemas) | values}
)
plain_words = st.text(alphabet='ab=:@,[]{}"1.e-\udce9 ', max_size=12)
typed_words = st.builds(
    "{}{}{}".format,
    st.sampled_from(["a", "b", "c", ""]),
    st.sampled_from(["=", ":=", "=@", "", ":"]),
    texts
    | values.map(json.dumps)
    | st.sampled_from(
        ["", "1,2", "a,b", "null", "true", "[1", "1e999", "9" * 5_000, "[" * 100_000, '"\\ud800"', "/dev/null", "/"]
    ),
)


@settings(deadline=None)
@given(st.lists(plain_words | typed_words, max_size=3), schemas)
def test_any_words_are_valid_parameters_or_a_usage_error(words: list[str], schema: Json) -> None:
    try:
        parameters = parse_parameters(words, schema)
    except UsageError as error:
        event("refused")
        str(error).encode()
        assert any(repr(word) in str(error) for word in words)
        return
    event("parameters")
    assert len(parameters) == len(words)
    msgspec.json.encode(wire.RunRequest(type="start_session", parameters=parameters))


def test_a_deeply_nested_schema_does_not_break_parsing() -> None:
    schema: Json = {"type": "integer"}
    for _ in range(900):
        schema = {"type": "array", "items": schema}
    with contextlib.suppress(UsageError):
        assert parse_parameters(["a=1"], {"properties": {"a": schema}})
