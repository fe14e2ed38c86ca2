import shlex

from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.executors.arguments import BadCommand, BadParameter, command_arguments, split_command
from fsm_runner.protocol.wire import JsonObject

any_text = st.text(st.characters())  # with NUL and halves of surrogate pairs
plain_keys = st.from_regex(r"[a-z][a-z0-9_-]*", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(plain_keys | any_text, json_values, max_size=4))
def test_any_parameters_give_arguments_or_the_one_error(parameters: JsonObject) -> None:
    try:
        arguments = command_arguments(parameters)
    except BadParameter:
        return
    for argument in arguments:
        assert isinstance(argument, str)
        assert b"\0" not in argument.encode()


@given(st.dictionaries(plain_keys, st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=5))
def test_each_text_is_one_argument_after_its_name(parameters: dict[str, str]) -> None:
    arguments = command_arguments(parameters)
    assert arguments[::2] == [f"--{key}" for key in parameters]
    assert arguments[1::2] == list(parameters.values())


@given(any_text)
def test_any_command_is_split_or_refused(command: str) -> None:
    try:
        words = split_command(command)
    except BadCommand:
        return
    assert words[0]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), min_size=1))
def test_quoted_words_come_back(words: list[str]) -> None:
    assert split_command(shlex.join(words)) == words
