"""A token service like Auth0, over TLS on this machine: it checks logins, signs tokens and serves its keys."""

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
    """Return the key of this name, which is cached: generating one is slow."""
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
    """The token service. Tests change its attributes while it serves."""

    def __init__(self) -> None:
        self.domain = ""
        """`localhost:PORT`, while it serves."""
        self.lifetime_s = 3600.0
        self.keys: list[dict[str, Any]] = [public_jwk()]
        self.key_id = KEY_ID
        """The id of the signing key."""
        self.issued: list[str] = []
        self.logins: list[dict[str, str]] = []
        self.keys_served = 0
        self.away = False
        self.gate = asyncio.Event()
        """Responses wait until it is set."""
        self.gate.set()
        self._watch = Watch(lambda: f"{len(self.logins)} logins, {self.keys_served} times keys")

    @property
    def requirements(self) -> TokenRequirements:
        return TokenRequirements(domain=self.domain, audience=AUDIENCE)

    @property
    def token_url(self) -> str:
        return f"https://{self.domain}/oauth/token"

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return the claims; the value None omits a claim."""
        now = time.time()
        # PyJWT reads whole seconds.
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

    async def served_keys(self, times: int) -> None:
        """Return after at least this number of fetches of the keys."""
        await self._watch.until(lambda: self.keys_served >= times, f"{times} times keys")

    def variables(self, **changed: str) -> dict[str, str]:
        """Return the environment of a runner that logs in here."""
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
            Route("/.well-known/jwks.json", self._serve_keys),
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

    async def _serve_keys(self, _: Request) -> Response:
        self.keys_served += 1
        self._watch.changed()
        await self.gate.wait()
        return Response("<html>Bad Gateway</html>", 502) if self.away else JSONResponse({"keys": self.keys})


class Signed(httpx.Auth):
    """A client that always has a valid token."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._issuer.token()}"
        yield request


@asynccontextmanager
async def issuing(folder: Path) -> AsyncIterator[tuple[Issuer, Path]]:
    """Yield a serving issuer, and the file with its authority's certificate, for SSL_CERT_FILE."""
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
