"""Removes secrets from the texts that are logged, written to the journal, and reported."""

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
"""Shorter values are ordinary words. Masking them everywhere would reveal more than it hides."""
SHORTEST_PART_CHARS = 4
"""The shortest part of a secret that is masked beside the mark of omitted text."""

_SECRET_NAME = re.compile(
    r"token|secret|passw(or)?d|passphrase|pgpass|credential|cookie|webhook|_(pwd|pat|auth)$"
    r"|(api|access|private|signing|encryption)_?key",
    re.IGNORECASE,
)
_NO_SECRET_NAME = re.compile(r"_(file|path|dir|url|uri|id|name|host|port|ttl|timeout|limit|tokens)$", re.IGNORECASE)
"""Names of variables about a secret: its location, its lifetime, its owner."""
SHORTEST_TOKEN_CHARS = 16
"""A user name of this length in a URL counts as a token. So does one without a password in an http URL, as in
`https://TOKEN@github.com`. Other user names, as in `ssh://git@github.com`, are shown."""

_LOGIN_PATTERN = r"(https?)?(:(?:\\?/){2})([^/\\?#\s\"'<>`]*)@"
_LOGIN = re.compile(_LOGIN_PATTERN, re.IGNORECASE)
"""User and password of a URL, up to the last `@` before its path. JSON may escape the slashes."""
_LOGIN_IN_JSON = re.compile(_LOGIN_PATTERN.encode(), re.IGNORECASE)


def without_logins(text: str) -> str:
    """Return the text with `***` for each password in a URL, and for each user name that may be a token."""
    return _LOGIN.sub(_masked_login, text) if "@" in text else text


def without_login(url: str) -> str:
    """Return a URL, perhaps malformed, with `***` for everything between its scheme and its last `@`."""
    return re.sub(r"^(\w+://)?.*@", rf"\1{MASK}@", url, flags=re.DOTALL)


def _masked_login(login: re.Match[str]) -> str:
    user, colon, password = login[3].partition(":")
    if _is_token(login):
        user = MASK
    return f"{login[1] or ''}{login[2]}{user}{colon}{MASK if password else ''}@"


def _is_token(login: re.Match[str]) -> bool:
    """Return whether the user name of a URL may be a token."""
    user, _, password = login[3].partition(":")
    return len(user) >= SHORTEST_TOKEN_CHARS or bool(login[1] and user and not password)


class Redactor:
    """Replaces secrets with `***`, in plain form and as JSON, URLs, HTML, hex and base64 encode them."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._forms: dict[str, bytes] = {}
        """The forms as text and as bytes, longest first, because part of a secret may be another secret."""
        self._base64: dict[str, bytes] = {}
        """The forms that programs break into lines."""
        for secret in secrets:
            self.add(secret)

    @classmethod
    def of_variables(cls, *environments: Mapping[str, str | None]) -> "Redactor":
        """Return a redactor of the variables whose names denote secrets, and of the logins in URLs of all variables."""
        return cls(secret for variables in environments for secret in _secrets_in(variables))

    def add(self, secret: str) -> None:
        """Add a secret. White space around it is ignored."""
        secret = secret.strip()
        if len(secret) >= SHORTEST_SECRET_CHARS:
            self._secrets.add(secret)
            self._forms = _encoded(form for each in self._secrets for form in _forms_of(each))
            self._base64 = _encoded(form for each in self._secrets for form in _base64_of(each))

    def replace(self, old: str, new: str) -> None:
        """Replace a secret, such as a renewed token."""
        self._secrets.discard(old.strip())
        self.add(new)

    def text(self, text: str) -> str:
        """Return the text without secrets and without the parts of secrets beside a `LEFT_OUT` mark."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        if "\n" in text:
            text = self._without_wrapped_base64(text)
        if LEFT_OUT.search(text):
            text = self._without_partial_secrets(text)
        return without_logins(text)

    def json(self, body: bytes) -> bytes:
        """Return a JSON document without secrets in its texts. Invalid JSON is treated as text."""
        if not self._has_secret(body) and not _has_login(body):
            return body
        try:
            return msgspec.json.encode(with_texts(decode_json(body), self.text, names=True))
        except DECODE_FAULTS:  # also nested too deeply, perhaps to evade this
            return self.text(body.decode(errors="replace")).encode()

    def _has_secret(self, body: bytes) -> bool:
        """Search the bytes, which is fast: reports may have megabytes, and few contain a secret."""
        if any(form in body for form in self._forms.values()):
            return True
        if not self._base64 or b"\\n" not in body:
            return False
        joined = body.replace(b"\\r", b"").replace(b"\\n", b"")
        return any(form in joined for form in self._base64.values())

    def _without_wrapped_base64(self, text: str) -> str:
        """Programs break base64 into lines of 64 or 76 characters."""
        joined = text.replace("\r\n", "").replace("\n", "")
        for form in self._base64:
            if form in joined:
                text = re.sub(r"(?:\r?\n)?".join(map(re.escape, form)), MASK, text)
        return text

    def _without_partial_secrets(self, text: str) -> str:
        parts = LEFT_OUT.split(text)
        marks = LEFT_OUT.findall(text)
        for index in range(len(marks)):
            parts[index] = self._without_partial_end(parts[index])
            parts[index + 1] = self._without_partial_start(parts[index + 1])
        return "".join(part + mark for part, mark in zip(parts, [*marks, ""], strict=True))

    def _without_partial_end(self, text: str) -> str:
        length = self._longest_part(lambda form, length: text.endswith(form[:length]))
        return text[:-length] + MASK if length else text

    def _without_partial_start(self, text: str) -> str:
        length = self._longest_part(lambda form, length: text.startswith(form[-length:]))
        return MASK + text[length:] if length else text

    def _longest_part(self, has_part: Callable[[str, int], bool]) -> int:
        """Return the greatest length for which `has_part` is true for a form of a secret; 0: there is none."""
        lengths = ((form, length) for form in self._forms for length in range(SHORTEST_PART_CHARS, len(form)))
        return max((length for form, length in lengths if has_part(form, length)), default=0)


def _secrets_in(variables: Mapping[str, str | None]) -> Iterator[str]:
    for name, value in variables.items():
        if not value:
            continue
        if _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name):
            yield value
            # Programs may print a multi-line key line by line, with indentation.
            yield from value.splitlines()
        for login in _LOGIN.finditer(value):
            user, _, password = login[3].partition(":")
            secrets = [password, user] if _is_token(login) else [password]
            # Programs may print the password decoded, or as it is in the URL.
            yield from secrets
            yield from map(unquote, secrets)


def _has_login(body: bytes) -> bool:
    """Return whether a JSON document contains a login that must be masked."""
    return b"@" in body and any(
        _masked_login(login) != login[0]
        for found in _LOGIN_IN_JSON.finditer(body)
        if (login := _LOGIN.fullmatch(found[0].decode(errors="replace")))
    )


def _encoded(forms: Iterable[str]) -> dict[str, bytes]:
    return {form: form.encode(errors="replace") for form in sorted(set(forms), key=len, reverse=True)}


def _forms_of(secret: str) -> set[str]:
    # A variable may contain bytes that are not text.
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
    """Return the text as HTML-safe JSON encoders write it."""
    return re.sub("[&<>+']", lambda char: f"\\u{ord(char[0]):04x}", text_in_json)


def _base64_of(secret: str) -> Iterator[str]:
    """Yield the base64 of a secret inside a longer text, without the characters that depend on the neighbouring bytes.

    There are three forms, because the secret may begin at any of three byte offsets.
    """
    content = secret.encode(errors="replace")
    for before in range(3):
        first = (before * 8 + 5) // 6
        last = (before + len(content)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(before) + content).decode()[first:last]
