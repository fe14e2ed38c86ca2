"""A token service as Auth0 is one, over TLS on this machine: it checks a login, signs tokens, tells its keys."""

import asyncio
import base64
import functools
import math
import ssl
import time
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fsm_runner.coordinator_server.auth.tokens import TokenRequirements
from tests.support.serving import serving
from tests.support.watch import Watch

AUDIENCE = "https://coordinator.example"
CLIENT_ID, CLIENT_SECRET = "runner-client", "runner-client-s3cret"
KEY_ID = "key-1"


@functools.cache
def private_key(name: str = KEY_ID) -> rsa.RSAPrivateKey:
    """Always the same one for a name: to make one takes its time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_jwk(key_id: str = KEY_ID, key: rsa.RSAPrivateKey | None = None) -> dict[str, Any]:
    numbers = (key or private_key(key_id)).public_key().public_numbers()
    return {
        "kty": "RSA",
        "kid": key_id,
        "use": "sig",
        "alg": "RS256",
        "n": _base64_of(numbers.n),
        "e": _base64_of(numbers.e),
    }


class Issuer:
    """What it says can be changed at any time."""

    def __init__(self) -> None:
        self.domain = ""
        """`localhost:PORT`, while it serves."""
        self.lifetime_s = 3600.0
        self.keys: list[dict[str, Any]] = [public_jwk()]
        self.key_id = KEY_ID
        """Of the key that signs."""
        self.issued: list[str] = []
        self.logins: list[dict[str, str]] = []
        self.keys_told = 0
        self.away = False
        self.gate = asyncio.Event()
        """Answers are held back while it is not set."""
        self.gate.set()
        self._watch = Watch(lambda: f"{len(self.logins)} logins, {self.keys_told} times keys")

    @property
    def requirements(self) -> TokenRequirements:
        return TokenRequirements(domain=self.domain, audience=AUDIENCE)

    @property
    def token_url(self) -> str:
        return f"https://{self.domain}/oauth/token"

    def claims(self, **changed: Any) -> dict[str, Any]:
        """None as a value leaves a claim out."""
        now = time.time()
        # Readers take whole seconds.
        times = {"iat": int(now), "exp": math.ceil(now + self.lifetime_s)}
        claims = {"iss": self.requirements.issuer, "aud": AUDIENCE, "sub": CLIENT_ID, **times, **changed}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, *, key_id: str | None = None, **changed: Any) -> str:
        key_id = key_id or self.key_id
        return jwt.encode(self.claims(**changed), private_key(key_id), algorithm="RS256", headers={"kid": key_id})

    async def asked_for_tokens(self, times: int) -> None:
        await self._watch.until(lambda: len(self.logins) >= times, f"{times} logins")

    async def has_issued(self, times: int) -> None:
        await self._watch.until(lambda: len(self.issued) >= times, f"{times} tokens")

    async def told_keys(self, times: int) -> None:
        """Asked so often, at least."""
        await self._watch.until(lambda: self.keys_told >= times, f"{times} times keys")

    def variables(self, **changed: str) -> dict[str, str]:
        """Of a runner that logs in here."""
        return {
            "AUTH0_DOMAIN": self.domain,
            "AUTH0_AUDIENCE": AUDIENCE,
            "AUTH0_RUNNER_CLIENT_ID": CLIENT_ID,
            "AUTH0_RUNNER_CLIENT_SECRET": CLIENT_SECRET,
            **changed,
        }

    def app(self) -> Starlette:
        routes = [
            Route("/oauth/token", self._login, methods=["POST"]),
            Route("/.well-known/jwks.json", self._tell_keys),
        ]
        return Starlette(routes=routes)

    async def _login(self, request: Request) -> Response:
        login = msgspec.json.decode(await request.body(), type=dict[str, str])
        self.logins.append(login)
        self._watch.changed()
        await self.gate.wait()
        if self.away:
            return Response("<html>Bad Gateway</html>", 502)
        if (login["client_id"], login["client_secret"]) != (CLIENT_ID, CLIENT_SECRET):
            return JSONResponse({"error": "access_denied", "error_description": "Unauthorized"}, 401)
        token = self.token(aud=login["audience"], jti=str(len(self.issued)))
        self.issued.append(token)
        self._watch.changed()
        return JSONResponse({"access_token": token, "expires_in": self.lifetime_s, "token_type": "Bearer"})

    async def _tell_keys(self, _: Request) -> Response:
        self.keys_told += 1
        self._watch.changed()
        await self.gate.wait()
        return Response("<html>Bad Gateway</html>", 502) if self.away else JSONResponse({"keys": self.keys})


class Signed(httpx.Auth):
    """Somebody who always has a token that is valid."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._issuer.token()}"
        yield request


@asynccontextmanager
async def issuing(folder: Path) -> AsyncIterator[tuple[Issuer, Path]]:
    """One that serves, and the file with the certificate of its authority, for SSL_CERT_FILE."""
    authority = trustme.CA()
    authority_file = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(authority_file))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    issuer = Issuer()
    async with serving(issuer.app(), tls) as url:
        issuer.domain = url.removeprefix("https://")
        yield issuer, authority_file


def _base64_of(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).rstrip(b"=").decode()
