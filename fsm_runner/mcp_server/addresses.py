"""The address of each session at the MCP server: who calls through it is that session, whatever its headers say."""

import base64
import binascii
import hashlib
import hmac
import secrets

PATH = "/mcp"
KEY_BYTES = 32


class Addresses:
    """They can be known for genuine without being kept, and are good as long as this server lives.

    `open_to_all`: the bare path is an address too, of nobody's session.
    """

    def __init__(self, *, open_to_all: bool) -> None:
        self._open_to_all = open_to_all
        self._key = secrets.token_bytes(KEY_BYTES)

    def path_of(self, session_id: str) -> str:
        session = session_id.encode(errors="surrogatepass")
        return f"{PATH}/{_text(session)}.{_text(self._seal(session))}"

    def is_open_to_all(self, path: str) -> bool:
        return self._open_to_all and path == PATH

    def session_of(self, path: str) -> str | None:
        """None where the path is of no session, or not of this server's making."""
        name, _, seal = path.removeprefix(f"{PATH}/").partition(".")
        try:
            session, sealed = _content(name), _content(seal)
        except (binascii.Error, ValueError):
            return None
        if not hmac.compare_digest(sealed, self._seal(session)):
            return None
        return session.decode(errors="surrogatepass")

    def _seal(self, session: bytes) -> bytes:
        return hmac.digest(self._key, session, hashlib.sha256)


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _content(text: str) -> bytes:
    """Raises `ValueError`."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
