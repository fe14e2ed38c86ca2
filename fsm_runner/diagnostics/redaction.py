"""Secrets, and texts without them: what is logged, written down and reported goes through here."""

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote

import msgspec

from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.json_tree import with_texts
from fsm_runner.protocol.wire import DECODE_FAULTS
from fsm_runner.util.text import LEFT_OUT

MASK = "***"
SHORTEST_SECRET_CHARS = 6
"""A shorter value is a word that stands in many texts; hiding it would tell more than it hides."""
SHORTEST_PART_CHARS = 4
"""Of a secret that was cut in two where something was left out: so much of it is hidden too."""

_SECRET_NAME = re.compile(
    r"token|secret|passw(or)?d|passphrase|pgpass|credential|cookie|webhook|_(pwd|pat|auth)$"
    r"|(api|access|private|signing|encryption)_?key",
    re.IGNORECASE,
)
_NO_SECRET_NAME = re.compile(r"_(file|path|dir|url|uri|id|name|host|port|ttl|timeout|limit|tokens)$", re.IGNORECASE)
"""Variables about a secret: where it is, how long it lasts, whose it is."""
SHORTEST_TOKEN_CHARS = 16
"""A user name in a URL that is this long is taken for a token. So is one without a password in an http URL, as in
`https://TOKEN@github.com`. Others, such as that of `ssh://git@github.com`, are shown: they hide nothing."""

_LOGIN_PATTERN = r"(https?)?(:(?:\\?/){2})([^/\\?#\s\"'<>`]*)@"
_LOGIN = re.compile(_LOGIN_PATTERN, re.IGNORECASE)
"""User and password of a URL, up to the last `@` before its path: a password may hold one. JSON may escape slashes."""
_LOGIN_IN_JSON = re.compile(_LOGIN_PATTERN.encode(), re.IGNORECASE)


def without_logins(text: str) -> str:
    """The text with `***` for each password in a URL, and for each user name that may be a token."""
    return _LOGIN.sub(_masked_login, text) if "@" in text else text


def without_login(url: str) -> str:
    """One URL, which need not be well-formed, with `***` for everything between its scheme and its last `@`."""
    return re.sub(r"^(\w+://)?.*@", rf"\1{MASK}@", url, flags=re.DOTALL)


def _masked_login(login: re.Match[str]) -> str:
    user, colon, password = login[3].partition(":")
    if _is_token(login):
        user = MASK
    return f"{login[1] or ''}{login[2]}{user}{colon}{MASK if password else ''}@"


def _is_token(login: re.Match[str]) -> bool:
    """Whether the user name of a URL may be one."""
    user, _, password = login[3].partition(":")
    return len(user) >= SHORTEST_TOKEN_CHARS or bool(login[1] and user and not password)


class Redactor:
    """Knows secrets, and puts `***` in their place: as they are, and as JSON, a URL or base64 shows them."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._forms: list[str] = []
        """The longest first: a part of it may be another secret."""
        self._base64: list[str] = []
        """Those of them that a program breaks into lines."""
        self._encoded_forms: list[bytes] = []
        self._encoded_base64: list[bytes] = []
        for secret in secrets:
            self.add(secret)

    @classmethod
    def of_variables(cls, *environments: Mapping[str, str | None]) -> "Redactor":
        """With the values of the variables that hold secrets by their names, and of logins in URLs."""
        return cls(secret for variables in environments for secret in _secrets_in(variables))

    def add(self, secret: str) -> None:
        """One more, from now on. Texts may hold it with or without white space around it."""
        secret = secret.strip()
        if len(secret) >= SHORTEST_SECRET_CHARS:
            self._secrets.add(secret)
            self._forms = sorted({form for each in self._secrets for form in _forms_of(each)}, key=len, reverse=True)
            self._base64 = sorted({form for each in self._secrets for form in _base64_of(each)}, key=len, reverse=True)
            self._encoded_forms = [form.encode(errors="replace") for form in self._forms]
            self._encoded_base64 = [form.encode(errors="replace") for form in self._base64]

    def replace(self, old: str, new: str) -> None:
        """A secret that is used no more, for one that is: a token that was renewed."""
        self._secrets.discard(old.strip())
        self.add(new)

    def text(self, text: str) -> str:
        """The text without secrets, also where something was left out in the middle of one."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        if "\n" in text:
            text = self._without_broken_lines(text)
        if LEFT_OUT.search(text):
            text = self._without_cut_secrets(text)
        return without_logins(text)

    def json(self, body: bytes) -> bytes:
        """The same for the texts in a JSON document, which stays one. What cannot be read as one is taken as a text."""
        if not self._holds_one(body) and not _holds_login(body):
            return body
        try:
            return msgspec.json.encode(with_texts(decode_json(body), self.text, names=True))
        except DECODE_FAULTS:  # nested too deeply, perhaps in order to be left as it is
            return self.text(body.decode(errors="replace")).encode()

    def _holds_one(self, body: bytes) -> bool:
        """Looked for in the bytes: what is reported may be megabytes, and few of them hold a secret."""
        if any(form in body for form in self._encoded_forms):
            return True
        if not self._encoded_base64 or b"\\n" not in body:
            return False
        joined = body.replace(b"\\r", b"").replace(b"\\n", b"")
        return any(form in joined for form in self._encoded_base64)

    def _without_broken_lines(self, text: str) -> str:
        """Base64 is broken into lines of 64 or 76 characters."""
        joined = text.replace("\r\n", "").replace("\n", "")
        for form in self._base64:
            if form in joined:
                text = re.sub(r"(?:\r?\n)?".join(map(re.escape, form)), MASK, text)
        return text

    def _without_cut_secrets(self, text: str) -> str:
        parts = LEFT_OUT.split(text)
        marks = LEFT_OUT.findall(text)
        for index in range(len(marks)):
            parts[index] = self._without_beginning_at_the_end(parts[index])
            parts[index + 1] = self._without_end_at_the_beginning(parts[index + 1])
        return "".join(part + mark for part, mark in zip(parts, [*marks, ""], strict=True))

    def _without_beginning_at_the_end(self, text: str) -> str:
        length = max(self._parts(lambda form, length: text.endswith(form[:length])), default=0)
        return text[:-length] + MASK if length else text

    def _without_end_at_the_beginning(self, text: str) -> str:
        length = max(self._parts(lambda form, length: text.startswith(form[-length:])), default=0)
        return MASK + text[length:] if length else text

    def _parts(self, is_there: Callable[[str, int], bool]) -> Iterator[int]:
        """The lengths of the parts of secrets that are there."""
        for form in self._forms:
            for length in range(SHORTEST_PART_CHARS, len(form)):
                if is_there(form, length):
                    yield length


def _secrets_in(variables: Mapping[str, str | None]) -> Iterator[str]:
    for name, value in variables.items():
        if not value:
            continue
        if _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name):
            yield value
            # A key of several lines is shown line by line, with an indentation perhaps.
            yield from value.splitlines()
        for login in _LOGIN.finditer(value):
            user, _, password = login[3].partition(":")
            secrets = [password, user] if _is_token(login) else [password]
            # A program may show the password as it was typed, or as the URL has it.
            yield from secrets
            yield from map(unquote, secrets)


def _holds_login(body: bytes) -> bool:
    """Whether a JSON document holds a login that has to be hidden."""
    return b"@" in body and any(
        _masked_login(login) != login[0]
        for found in _LOGIN_IN_JSON.finditer(body)
        if (login := _LOGIN.fullmatch(found[0].decode(errors="replace")))
    )


def _forms_of(secret: str) -> set[str]:
    # A variable may hold bytes that are no text.
    quoted = {each(secret, errors="replace") for each in (quote, quote_plus)} | {quote(secret, "", errors="replace")}
    lower = {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), each) for each in quoted}
    in_json = {json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
    in_json |= {each.replace("/", "\\/") for each in in_json} | {_escaped(each) for each in in_json}
    in_json |= {json.dumps(each)[1:-1] for each in in_json}
    as_bytes = secret.encode(errors="replace")
    byte_by_byte = {"".join(f"%{byte:{style}}" for byte in as_bytes) for style in ("02X", "02x")}
    in_hex = {as_bytes.hex(), as_bytes.hex().upper()}
    in_html = {html.escape(secret), html.escape(secret, quote=False)}
    in_ascii = {*byte_by_byte, *in_hex, *_base64_of(secret)}
    return {secret, repr(secret)[1:-1], *quoted, *lower, *in_json, *in_html, *in_ascii}


def _escaped(text_in_json: str) -> str:
    """As encoders write it that think of web pages: what means something in HTML is a number."""
    return re.sub("[&<>+']", lambda char: f"\\u{ord(char[0]):04x}", text_in_json)


def _base64_of(secret: str) -> set[str]:
    return set(_base64_forms(secret.encode(errors="replace")))


def _base64_forms(secret: bytes) -> Iterator[str]:
    """As it is seen inside of something longer: of three places where it may begin, what does not depend on the
    neighbours."""
    for before in range(3):
        first = (before * 8 + 5) // 6
        last = (before + len(secret)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(before) + secret).decode()[first:last]
