"""How the Claude Code executor counts the usage of a turn."""

from claude_agent_sdk import AssistantMessage, ResultMessage, TextBlock
from claude_agent_sdk.types import Message, StreamEvent
from hypothesis import given
from hypothesis import strategies as st

from claude_code_executor.results import PROGRAM_ITSELF
from claude_code_executor.usage import TurnUsage

MODEL = {"inputTokens": 5, "outputTokens": 6, "cacheReadInputTokens": 7, "cacheCreationInputTokens": 0}


def result(**fields: object) -> ResultMessage:
    given = {"subtype": "success", "duration_ms": 1, "duration_api_ms": 1, "is_error": False, "num_turns": 2}
    return ResultMessage(**{"session_id": "s", **given, **fields})  # type: ignore[arg-type]  # each test names its own


def block(answer: str, input_tokens: int = 100, model: str = "claude", parent: str | None = None) -> AssistantMessage:
    usage = {"input_tokens": input_tokens, "output_tokens": 1, "cache_read_input_tokens": 10}
    return AssistantMessage([TextBlock("…")], model, parent_tool_use_id=parent, usage=usage, message_id=answer)


def streamed(answer: str, output_tokens: int) -> list[Message]:
    """Return the messages about an answer with two blocks, in the order of the program."""
    begun = {"type": "message_start", "message": {"id": answer, "usage": {"input_tokens": 100, "output_tokens": 1}}}
    ended = {"type": "message_delta", "usage": {"output_tokens": output_tokens}}
    return [
        StreamEvent("u", "s", begun),
        block(answer),
        block(answer),
        StreamEvent("u", "s", ended),
        StreamEvent("u", "s", {"type": "message_stop"}),
    ]


def counted(*messages: Message) -> TurnUsage:
    usage = TurnUsage(clock=lambda: 1.0)
    for message in messages:
        usage.record(message)
    return usage


def test_the_total_is_that_of_all_results_and_all_models() -> None:
    first = result(model_usage={"small": {**MODEL, "costUSD": 0.25}, "large": {**MODEL, "costUSD": 0.5}})
    second = result(model_usage={"small": {**MODEL, "costUSD": 0.125}}, num_turns=1)
    assert counted(first, second).total() == {
        "input_tokens": 15,
        "output_tokens": 18,
        "cache_read_tokens": 21,
        "cache_written_tokens": 0,
        "cost_usd": 0.875,
        "duration_s": 0.0,
        "turns": 0,
    }


def test_an_answer_counts_once_and_completes_with_its_last_part() -> None:
    usage = TurnUsage()
    reports = [usage.record(message) for message in streamed("one", 30)]
    assert reports == [False, False, False, True, False]
    assert {**usage.so_far(), "duration_s": 0} == {
        "input_tokens": 100,
        "output_tokens": 30,
        "cache_read_tokens": 10,
        "cache_written_tokens": 0,
        "duration_s": 0,
        "turns": 1,
    }


def test_answers_of_subagents_do_not_arrive_in_parts() -> None:
    usage = TurnUsage()
    answers = [block("two", parent="agent"), block("two", parent="agent"), block("three", parent="agent")]
    assert [usage.record(message) for message in answers] == [True, False, True]
    assert (usage.so_far()["turns"], usage.so_far()["input_tokens"]) == (2, 200)


def test_messages_of_the_program_itself_are_no_answers() -> None:
    usage = counted(block("none", 0, model=PROGRAM_ITSELF), AssistantMessage([], "claude"))
    assert usage.so_far()["turns"] == 0


def test_usage_continues_to_grow_after_a_result() -> None:
    """The result of the prompt does not contain the answers after it."""
    first = result(model_usage={"m": {"inputTokens": 100, "outputTokens": 30, "costUSD": 0.5}})
    usage = counted(*streamed("one", 30), first, *streamed("two", 40))
    so_far = usage.so_far()
    assert (so_far["input_tokens"], so_far["output_tokens"], so_far["cost_usd"]) == (200, 70, 0.5)


def test_a_result_without_usage_leaves_what_was_counted() -> None:
    assert counted(*streamed("one", 30), result()).total()["output_tokens"] == 30


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
odd_usage = st.dictionaries(st.sampled_from(["input_tokens", "output_tokens", "other"]), json_values)
odd_events = st.fixed_dictionaries(
    {"type": st.sampled_from(["message_start", "message_delta", "ping"])},
    optional={"message": st.fixed_dictionaries({"id": st.text(max_size=1), "usage": odd_usage}), "usage": odd_usage},
)
messages = st.one_of(
    odd_events.map(lambda event: StreamEvent("u", "s", event)),
    st.builds(block, st.text(max_size=1), st.integers(0, 9), parent=st.none() | st.just("agent")),
    st.sampled_from([0, 7, 500]).map(lambda count: result(model_usage={"m": {"inputTokens": count, "costUSD": 0.1}})),
)


@given(st.lists(messages))
def test_no_field_decreases(messages: list[Message]) -> None:
    usage = TurnUsage()
    before = usage.so_far()
    for message in messages:
        usage.record(message)
        now = usage.so_far()
        assert all(now[name] >= value for name, value in before.items())
        before = now
