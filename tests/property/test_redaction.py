"""Secrets are masked in every encoding."""

import base64
import html
import json
import re
import string
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fsm_runner.diagnostics.redaction import MASK, SHORTEST_PART_CHARS, SHORTEST_SECRET_CHARS, Redactor
from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.util.error_text import limited_error

secrets = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=SHORTEST_SECRET_CHARS, max_size=60
).filter(lambda text: MASK not in text and text == text.strip())
plain_secrets = st.text(string.ascii_lowercase, min_size=12, max_size=40)
surroundings = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)

FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "json": lambda secret: json.dumps(secret)[1:-1],
    "json in UTF-8": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "json with escaped slashes": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "json in json": lambda secret: json.dumps(json.dumps(secret))[1:-1][2:-2],
    "json for a web page": lambda secret: re.sub(
        "[&<>+']", lambda char: f"\\u{ord(char[0]):04x}", json.dumps(secret)[1:-1]
    ),
    "html": html.escape,
    "python": lambda secret: repr(secret)[1:-1],
    "url": lambda secret: quote(secret, safe=""),
    "url path": quote,
    "form": quote_plus,
    "url, each byte": lambda secret: "".join(f"%{byte:02X}" for byte in secret.encode()),
    "hexadecimal": lambda secret: secret.encode().hex(),
    "url in lower case": lambda secret: "".join(
        char if char.isascii() and quote(char, safe="") == char else "".join(f"%{byte:02x}" for byte in char.encode())
        for char in secret
    ),
}


@given(secrets, st.sampled_from(sorted(FORMS)), surroundings, surroundings)
@example("a\"b\\c'd", "json", "", "")
@example("s3cr/t+=?&", "url", "a", "b")
def test_a_secret_is_hidden_in_every_form(secret: str, form: str, before: str, after: str) -> None:
    shown = FORMS[form](secret)
    hidden = Redactor([secret]).text(f"{before}\0{shown}\0{after}")
    assert f"\0{shown}\0" not in hidden
    assert f"\0{MASK}\0" in hidden


@given(secrets, st.binary(max_size=7), st.binary(max_size=7), st.booleans())
def test_a_secret_is_hidden_inside_base64(secret: str, before: bytes, after: bytes, safe: bool) -> None:
    encode = base64.urlsafe_b64encode if safe else base64.b64encode
    hidden = Redactor([secret]).text(encode(before + secret.encode() + after).decode())
    assert MASK in hidden
    # What is left at its edges is of no more than the two bytes that share a group with the neighbours.
    left = hidden.split(MASK)
    assert len(left[0]) <= len(encode(before)) + 2
    assert len(left[-1]) <= len(encode(after)) + 4


@given(secrets, st.binary(max_size=80), st.sampled_from([4, 20, 64, 76]), st.sampled_from(["\n", "\r\n"]))
def test_a_secret_is_hidden_in_wrapped_base64(secret: str, before: bytes, width: int, line_break: str) -> None:
    whole = base64.b64encode(before + secret.encode()).decode()
    lines = [whole[begin : begin + width] for begin in range(0, len(whole), width)]
    hidden = Redactor([secret]).text(line_break.join(lines))
    assert len(hidden.replace(line_break, "").replace(MASK, "")) <= len(base64.b64encode(before)) + 6


@given(secrets, st.recursive(surroundings | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3)))
def test_json_stays_json(secret: str, other: object) -> None:
    redactor = Redactor([secret])
    body = msgspec.json.encode({"is": f"before {secret} after", "deep": [{"er": secret}], "other": other})
    decoded = msgspec.json.decode(redactor.json(body))
    assert decoded["deep"] == [{"er": MASK}]
    assert secret not in decoded["is"]
    untouched = msgspec.json.encode({"other": "nothing here"})
    assert redactor.json(untouched) == untouched


@pytest.mark.parametrize("depth", [10, 500, 900, 5_000])
def test_a_secret_is_hidden_at_any_depth(depth: int) -> None:
    body = b"[" * depth + b'{"a secret":"a secret"}' + b"]" * depth
    assert Redactor(["a secret"]).json(body) == body.replace(b"a secret", b"***")


@given(plain_secrets, st.integers(0, 60), st.integers(0, 60), st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_a_secret_is_hidden_beside_omitted_text(secret: str, before: int, after: int, writes: list[int]) -> None:
    # The filling shares no character with the secret, so that any part of it that is left can be seen.
    stream = ("A" * before + secret + "B" * after).encode()
    capture = BoundedCapture(40)
    for size in writes * (len(stream) // sum(writes) + 1):
        capture.add(stream[:size])
        stream = stream[size:]
    hidden = Redactor([secret]).text(capture.text())
    assert _longest_part(secret, hidden) < SHORTEST_PART_CHARS


@given(plain_secrets, st.integers(0, 20_000))
def test_a_shortened_report_has_no_part_of_a_secret(secret: str, before: int) -> None:
    text = "A" * before + secret + "B" * 20_000
    assert _longest_part(secret, limited_error(Redactor([secret]).text(text))) == 0


def _longest_part(secret: str, text: str) -> int:
    """How many characters of the secret stand there in a row. The words between the parts do not count."""
    text = "".join(char for char in text.replace("bytes left out", "").replace("characters left out", ""))
    lengths = [
        end - begin
        for begin in range(len(secret))
        for end in range(begin + 1, len(secret) + 1)
        if secret[begin:end] in text
    ]
    return max(lengths, default=0)


@given(st.dictionaries(st.sampled_from(["API_TOKEN", "MY_SECRET", "DB_PASSWORD", "PATH", "TOKEN_FILE"]), secrets))
def test_the_name_of_a_variable_makes_it_a_secret(variables: dict[str, str]) -> None:
    redactor = Redactor.of_variables(variables)
    hidden = {name for name in variables if name not in {"PATH", "TOKEN_FILE"}}
    for name in hidden:
        assert redactor.text(f"\0{variables[name]}\0") == f"\0{MASK}\0"


def test_variables_about_a_secret_are_shown() -> None:
    shown = {"TOKEN_FILE": "/run/secrets/token", "MAX_TOKENS": "100000", "SECRET_NAME": "my-secret", "A_TOKEN": "short"}
    redactor = Redactor.of_variables(shown)
    assert [redactor.text(value) for value in shown.values()] == list(shown.values())


def test_a_login_in_a_url_is_hidden() -> None:
    redactor = Redactor.of_variables({"HTTPS_PROXY": "http://me:pass-word@proxy:3128"})
    assert redactor.text("cannot reach http://me:pass-word@proxy:3128/x") == "cannot reach http://me:***@proxy:3128/x"
    assert redactor.text("http://you:other@proxy and pass-word") == "http://you:***@proxy and ***"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:p@ss@host/x", "https://me:***@host/x"),
        ("https://me:p%40ss@host/", "https://me:***@host/"),
        ("https://ghp_0123456789abcdef@github.com/a/b", "https://***@github.com/a/b"),
        ("https://ghp_0123456789abcdef:x-oauth-basic@github.com", "https://***:***@github.com"),
        ("https://x-access-token:abc@github.com", "https://x-access-token:***@github.com"),
        ("https://token@host/x", "https://***@host/x"),
        ("git+https://token@host/x", "git+https://***@host/x"),
        ("postgresql://me:pw@[::1]:5432/db", "postgresql://me:***@[::1]:5432/db"),
        ("ssh://git@github.com/a", "ssh://git@github.com/a"),
        ("http://host/a@b:c@d", "http://host/a@b:c@d"),
        ("https://host?to=me:you@example.com", "https://host?to=me:you@example.com"),
        ("see http://a:1@b and c@d", "see http://a:***@b and c@d"),
    ],
)
def test_logins_are_hidden_in_texts_and_in_json(url: str, shown: str) -> None:
    redactor = Redactor()
    assert redactor.text(url) == shown
    assert json.loads(redactor.json(json.dumps({"text": url}).encode())) == {"text": shown}
    escaped = json.dumps({"text": url}).replace("/", "\\/").encode()
    assert json.loads(redactor.json(escaped)) == {"text": shown}


def test_json_without_a_login_is_not_encoded_again() -> None:
    body = b'{ "n": 1.50, "from": "ssh://git@github.com/a", "to": "me@example.com" }'
    assert Redactor(["s3cret-value"]).json(body) is body


def test_the_password_of_a_url_in_a_variable_is_a_secret_as_typed_and_as_encoded() -> None:
    redactor = Redactor.of_variables({"DATABASE_URL": "postgresql://me:p%40ss-word@db/x"})
    assert redactor.text("p@ss-word p%40ss-word") == "*** ***"


def test_a_variable_that_is_not_text_is_hidden_too() -> None:
    secret = "s3cret-\udcff"
    assert repr(secret) not in Redactor.of_variables({"A_TOKEN": secret}).text(f"A_TOKEN: {secret!r}: not UTF-8 text")


def test_a_secret_that_is_part_of_another_reveals_nothing_of_it() -> None:
    assert Redactor(["secret", "secretive-more"]).text("a secretive-more, a secret") == "a ***, a ***"


def test_a_renewed_token_replaces_the_last_one() -> None:
    redactor = Redactor(["first-token"])
    redactor.replace("first-token", "second-token")
    assert redactor.text("first-token second-token") == f"first-token {MASK}"
