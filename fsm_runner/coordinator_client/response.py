"""A response of the coordinator or the token service, with its whole body."""

from typing import TypeVar

import httpx
import msgspec

from fsm_runner.coordinator_client.errors import Unreachable
from fsm_runner.coordinator_client.redirects import Redirect
from fsm_runner.protocol import wire
from fsm_runner.protocol.error_bodies import reason_of
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.util.text import excerpt

Form = TypeVar("Form")


class ApiResponse(msgspec.Struct, frozen=True):
    """A response with its whole body."""

    call: str
    """Method and URL, for messages."""
    status: int
    body: bytes
    challenge: str = ""
    """The `WWW-Authenticate` header, or `Proxy-Authenticate` if a proxy asks for a login."""
    redirect: Redirect | None = None
    """A redirect that was not followed."""
    final_url: httpx.URL | None = None
    """The URL after redirects; None: none was followed."""

    def __str__(self) -> str:
        return f"{self.call}: HTTP {self.status}: {excerpt(reason_of(self.body)) or excerpt(self.text)}"

    @property
    def text(self) -> str:
        """The body as UTF-8, whatever character set the response names."""
        return self.body.decode(errors="replace")

    def decoded(self, form: type[Form]) -> Form:
        """Return the body as `form`. Raises `Unreachable` if it has another form: a proxy's page, a truncated body."""
        try:
            return decode_json(self.body, form)
        except wire.DECODE_FAULTS as error:
            reason = f"not a coordinator's response: {excerpt(str(error))}: {excerpt(self.text)}"
            raise Unreachable(f"{self.call}: HTTP {self.status}: {reason}") from error
