"""The faults, grouped by subject."""

from typing import Any

from tests.support.broken_executors import Fault, fault

_MISSING = ("no-schema-version", "no-mode", "no-session-id", "no-parameters")
REFUSALS = ("empty-stdin", "bad-json", *_MISSING, "unsupported-version", "unknown-mode")

_VERSION_LINE = (
    'print(json.dumps({"executor": "plain-python", "version": "1.0", "schema_versions": SUPPORTED_VERSIONS}))'
)
_BIND_LINE = 'post("/bind", {"session_id": session_id, "executor_session_id": f"python_{session_id}"})'
_RESULT_LINE = 'send_event(session_id, "result", result_text=answer)'
_ASSISTANT_LINE = 'send_event(session_id, "message", role="assistant", content=[{"type": "text", "text": answer}])'
_NOTICE_LINE = 'send_event(session_id, "message", role="assistant", content=[])'
_TOOL_LINE = 'send_event(session_id, "post_tool", tool_name="t", tool_input={}, tool_output="")'
_OTHERS_LINE = 'send_event("ses_other", "message", role="assistant", content=[])'
_TURN_COMPLETE_LINE = 'print(json.dumps({"type": "turn_complete", "result": answer}), flush=True)'
_PROMPT_LINE = 'prompt = parameters.get("prompt", "")'
_READ_LINE = "invocation = read_invocation(sys.stdin.readline())"
_LIMIT_LINE = 'post("/metadata", {"session_id": session_id, "limit": limit}, "PATCH")'
_LIMITED_TURN_LINE = 'print(json.dumps({"type": "turn_complete", "result": "", "limited": True}), flush=True)'
_LIMIT_ERROR = 'print("Error: the limit is reached", file=sys.stderr)'
_MODE_LINE = 'if invocation["mode"] not in ("start", "resume"):'


def _with_metadata(**fields: Any) -> str:
    """Return the line that sends the result, after one that sends metadata."""
    return f'post("/metadata", {{"session_id": session_id, **{fields!r}}}, "PATCH")\n    {_RESULT_LINE}'


QUESTIONS: tuple[Fault, ...] = (
    fault("version-hangs", _VERSION_LINE, "time.sleep(1000)", "version", hangs=True),
    fault("version-is-its-own", '"schema_versions": SUPPORTED_VERSIONS', '"schema_versions": "12.2"', "version"),
    fault("schema-is-prose", "print(json.dumps(SCHEMA))", 'print("parameters: an object")', "schema"),
    fault("schema-is-no-schema", '"type": "object",\n    "required"', '"type": "thing",\n    "required"', "schema"),
    fault(
        "schema-fails", "print(json.dumps(SCHEMA))\n        return 0", "print(json.dumps(SCHEMA)); return 3", "schema"
    ),
)

INPUT: tuple[Fault, ...] = (
    fault(
        "exits-0-on-bad-json",
        'raise Refused(f"the invocation is no JSON: {fault}") from fault',
        "sys.exit(0)",
        "bad-json",
    ),
    fault(
        "hangs-on-empty-stdin",
        'raise Refused("stdin is empty; a runner writes an invocation to it")',
        "time.sleep(1000)",
        "empty-stdin",
        hangs=True,
    ),
    fault(
        "takes-any-version",
        'if invocation["schema_version"] not in SUPPORTED_VERSIONS:',
        "if False:",
        "unsupported-version",
    ),
    fault("takes-any-mode", _MODE_LINE, "if False:", "unknown-mode"),
    fault(
        "needs-no-session-id",
        "if not isinstance(invocation, dict):",
        'invocation.setdefault("session_id", os.environ["AGENT_SESSION_ID"])\n    if not isinstance(invocation, dict):',
        "no-session-id",
    ),
    fault(
        "does-not-say-error", 'print(f"Error: {fault}", file=sys.stderr)', "print(fault, file=sys.stderr)", *REFUSALS
    ),
    fault("says-error-on-stdout", 'print(f"Error: {fault}", file=sys.stderr)', 'print(f"Error: {fault}")', *REFUSALS),
    fault(
        "binds-whatever-comes",
        _READ_LINE,
        'post("/bind", {"session_id": os.environ["AGENT_SESSION_ID"], "executor_session_id": "early"})\n        '
        + _READ_LINE,
        *REFUSALS,
    ),
)

CONTENTS: tuple[Fault, ...] = (
    fault(
        "refuses-unknown-fields",
        _MODE_LINE,
        'if set(invocation) - {*REQUIRED, "project_dir", "executor_config", "metadata"}:\n'
        '        raise Refused("unknown fields")\n    ' + _MODE_LINE,
        "unknown-fields",
    ),
    fault(
        "refuses-metadata",
        _MODE_LINE,
        f'if "metadata" in invocation:\n        raise Refused("metadata")\n    {_MODE_LINE}',
        "metadata",
    ),
    fault("reads-64-KiB", "sys.stdin.readline()", "sys.stdin.readline(65536)", "huge-parameter"),
    fault("crashes-on-unicode", _PROMPT_LINE, f'{_PROMPT_LINE}\n    prompt.encode("ascii")', "unicode"),
    fault(
        "cannot-resume",
        _MODE_LINE,
        'if invocation["mode"] == "resume":\n        os.abort()\n    ' + _MODE_LINE,
        "resume",
    ),
)

TELLING: tuple[Fault, ...] = (
    fault("never-binds", _BIND_LINE, "pass", "bind"),
    fault(
        "binds-late",
        _BIND_LINE,
        f'send_event(session_id, "message", role="user", content=[])\n        {_BIND_LINE}',
        "bind",
    ),
    fault(
        "speaks-for-another", '"session_id": session_id, "timestamp"', '"session_id": "ses_other", "timestamp"', "start"
    ),
    fault(
        "speaks-for-another-now-and-then",
        _ASSISTANT_LINE,
        f"try:\n        {_OTHERS_LINE}\n    except OSError:\n        pass",
        "accepted",
    ),
    fault("sends-two-results", _RESULT_LINE, f"{_RESULT_LINE}\n    {_RESULT_LINE}", "one-result", "resume"),
    fault("sends-no-result", _RESULT_LINE, "pass", "one-result", "resume", "huge-parameter", "unicode"),
    fault(
        "sends-text-and-data", "result_text=answer", 'result_text=answer, result_data={"answer": answer}', "result-form"
    ),
    fault("sends-data-as-text", "result_text=answer", "result_data=answer", "start"),
    fault("invents-a-role", 'role="assistant"', 'role="narrator"', "event-form"),
)

TIMES: tuple[Fault, ...] = (
    fault("tells-local-time", '{microseconds:06d}Z"', '{microseconds:06d}+02:00"', "timestamps", "resume"),
    fault("takes-local-time-for-utc", "time.gmtime(seconds)", "time.gmtime(seconds + 7200)", "timestamps", "resume"),
    fault("goes-back-in-time", "latest[0] + 1)", "0) - (latest[0] > 0) * 1_000_000", "timestamps", "resume"),
)

TURNS: tuple[Fault, ...] = (
    fault(
        "does-not-flush", '"result": answer}), flush=True)', '"result": answer}))', "start", hangs=True, persistent=True
    ),
    fault(
        "breaks-no-line", "answer}), flush=True)", 'answer}), end="", flush=True)', "start", hangs=True, persistent=True
    ),
    fault(
        "completes-too-early",
        f"{_ASSISTANT_LINE}\n    {_RESULT_LINE}\n    {_TURN_COMPLETE_LINE}",
        f"{_RESULT_LINE}\n    {_TURN_COMPLETE_LINE}\n    {_ASSISTANT_LINE}",
        "told-first",
        persistent=True,
    ),
    fault(
        "completes-without-result",
        '{"type": "turn_complete", "result": answer}',
        '{"type": "turn_complete"}',
        "turn-complete",
        persistent=True,
    ),
    fault(
        "dies-after-its-turn",
        "parameters = next_turn()",
        "parameters = None",
        *("stays", "further-turns", "unknown-messages"),
        persistent=True,
    ),
    fault(
        "takes-noise-for-fatal",
        "except ValueError:\n            continue",
        "except ValueError:\n            return None",
        "unknown-messages",
        persistent=True,
    ),
    fault(
        "takes-anything-for-a-turn",
        'if kind == "turn":\n            return message["parameters"]',
        'if isinstance(message, dict):\n            return message["parameters"]',
        "unknown-messages",
        persistent=True,
    ),
)

ENDINGS: tuple[Fault, ...] = (
    fault(
        "ignores-shutdown",
        'if kind == "shutdown":\n            sys.exit(0)',
        'if kind == "shutdown":\n            continue',
        "shutdown",
        hangs=True,
        persistent=True,
    ),
    fault(
        "ignores-the-end-of-input",
        'return message["parameters"]\n    return None',
        'return message["parameters"]\n    time.sleep(1000)',
        "end-of-input",
        hangs=True,
        persistent=True,
    ),
    fault(
        "ignores-sigterm",
        _READ_LINE,
        f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n        {_READ_LINE}",
        *("sigterm-at-work", "sigterm-idle"),
        hangs=True,
        persistent=True,
    ),
    fault(
        "ignores-sigterm-in-its-one-turn",
        _READ_LINE,
        f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n        {_READ_LINE}",
        "sigterm-at-work",
        hangs=True,
    ),
    fault(
        "leaves-a-child",
        _BIND_LINE,
        f'import subprocess; subprocess.Popen(["sleep", "1000"])\n        {_BIND_LINE}',
        "leaves-nothing",
    ),
    fault(
        "leaves-a-child-that-ignores-sigterm",
        _BIND_LINE,
        f'import subprocess; subprocess.Popen(["sh", "-c", "trap : TERM; while :; do sleep 1; done"])\n'
        f"        {_BIND_LINE}",
        *("leaves-nothing", "sigterm-at-work"),
    ),
)

METADATA: tuple[Fault, ...] = (
    fault(
        "counts-in-words", _RESULT_LINE, _with_metadata(usage={"output_tokens": "12"}), "metadata-form", in_turns=True
    ),
    fault("counts-below-zero", _RESULT_LINE, _with_metadata(usage={"cost_usd": -0.5}), "metadata-form", in_turns=True),
    fault("counts-nothing", _RESULT_LINE, _with_metadata(usage=12), "metadata-form", in_turns=True),
    fault(
        "details-as-object", _RESULT_LINE, _with_metadata(status_detail={"waits": True}), "metadata-form", in_turns=True
    ),
    fault("limit-as-text", _RESULT_LINE, _with_metadata(limit="five_hour"), "start", in_turns=True),
)

LIMITS: tuple[Fault, ...] = (
    *(
        fault(name, old, new, "limited", "metadata-form", in_turns=True)
        for name, old, new in (
            ("limit-without-kind", '"kind": "five_hour", ', ""),
            ("limit-of-empty-kind", '"five_hour"', '" "'),
            ("limit-of-long-kind", '"five_hour"', '"five_hour" * 50'),
            ("limit-resets-in-seconds", '"2026-03-01T15:00:00Z"', "1772377200"),
            ("limit-resets-without-offset", "15:00:00Z", "15:00:00"),
            ("limit-resets-soon", "2026-03-01T15:00:00Z", "soon"),
            ("limit-of-unknown-scope", '"scope": "session"', '"scope": "account"'),
            ("limit-with-long-message", '"Wait."', '"Wait." * 200'),
        )
    ),
    fault("sends-no-limit", _LIMIT_LINE, "pass", "limited", in_turns=True),
    fault(
        "sends-a-result-at-a-limit",
        _LIMIT_LINE,
        f'{_LIMIT_LINE}\n    answer = ""\n    {_RESULT_LINE}',
        "limited",
        in_turns=True,
    ),
    *(
        fault(
            name,
            _LIMIT_LINE,
            f"{_LIMIT_LINE}\n    {line}",
            "limited",
            in_turns=True,
            persistent=name.startswith("uses"),
        )
        for name, line in (
            ("answers-after-a-limit", _NOTICE_LINE),
            ("uses-a-tool-after-a-limit", _TOOL_LINE),
        )
    ),
    fault("exits-0-at-a-limit", _LIMIT_ERROR, f"{_LIMIT_ERROR}; return 0", "limited", in_turns=True),
    fault(
        "cannot-resume-after-a-limit",
        _MODE_LINE,
        'if invocation["mode"] == "resume":\n        raise Refused("no resume")\n    ' + _MODE_LINE,
        "limited",
        in_turns=True,
    ),
    fault("completes-a-limited-turn", ', "limited": True', "", "limited", in_turns=True, persistent=True),
    fault("limits-without-result", '"result": "", ', "", "limited", in_turns=True, persistent=True),
    fault(
        "exits-after-a-limit",
        _LIMIT_LINE,
        f"{_LIMIT_LINE}\n    os._exit(0)",
        "limited",
        in_turns=True,
        persistent=True,
    ),
    fault(
        "dies-after-a-limited-turn",
        _LIMITED_TURN_LINE,
        f"{_LIMITED_TURN_LINE}\n    os._exit(1)",
        "limited",
        in_turns=True,
        persistent=True,
    ),
    fault(
        "ends-the-turn-before-the-limit",
        f"{_LIMIT_LINE}\n    {_LIMITED_TURN_LINE}",
        f"{_LIMITED_TURN_LINE}\n    time.sleep(0.2)\n    {_LIMIT_LINE}",
        "limited",
        in_turns=True,
        persistent=True,
    ),
    fault(
        "marks-every-turn",
        '"result": answer}',
        '"result": answer, "limited": True}',
        *("limited", "turn-complete"),
        in_turns=True,
        persistent=True,
    ),
)

GROUPS: dict[str, tuple[Fault, ...]] = {
    "questions": QUESTIONS,
    "input": INPUT,
    "contents": CONTENTS,
    "telling": TELLING,
    "times": TIMES,
    "turns": TURNS,
    "endings": ENDINGS,
    "metadata": METADATA,
    "limits": LIMITS,
}
