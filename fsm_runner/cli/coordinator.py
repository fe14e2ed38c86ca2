"""`fsm-runner coordinator`: a coordinator without a runner."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from fsm_runner.errors import UsageError

if TYPE_CHECKING:
    from fsm_runner.coordinator_server.auth.tokens import TokenRequirements
    from fsm_runner.coordinator_server.server import CoordinatorServer


def serve(
    port: Annotated[str | None, Option(help="The port; 0: a free one. [8765]")] = None,
    host: Annotated[str | None, Option(help="The address to listen on. [127.0.0.1]")] = None,
    database: Annotated[str | None, Option(metavar="FILE", help="The SQLite file for all data. [in memory]")] = None,
    agents_dir: Annotated[str | None, Option(metavar="DIR", help="The folder of agent definitions, *.json.")] = None,
    scripts_dir: Annotated[str | None, Option(metavar="DIR", help="The folder of scripts, {name}/script.json.")] = None,
    keep_runs: Annotated[
        str | None,
        Option(metavar="DURATION", help="Delete sessions with their runs this long after their end, as 30d. [never]"),
    ] = None,
) -> None:
    """Run a coordinator.

    With AUTH_ENABLED=true every call needs a token of AUTH0_DOMAIN for AUTH0_AUDIENCE.
    """
    from fsm_runner.cli.moments import duration_of
    from fsm_runner.config.settings import known_secrets
    from fsm_runner.coordinator_server.server import DEFAULT_HOST, DEFAULT_PORT, MAX_CONNECTIONS, CoordinatorServer
    from fsm_runner.diagnostics.logs import configure_logs
    from fsm_runner.http_server.listener import PortInUse
    from fsm_runner.process.limits.open_files import COORDINATOR_SHARE, OPEN_FILES
    from fsm_runner.util import event_loop

    OPEN_FILES.raise_limit()
    configure_logs(known_secrets(), verbose=False)
    server = CoordinatorServer(
        host=host or DEFAULT_HOST,
        port=_port(port) if port else DEFAULT_PORT,
        database=_path(database),
        agents_dir=_path(agents_dir),
        scripts_dir=_path(scripts_dir),
        keep_runs_s=duration_of("--keep-runs", keep_runs) if keep_runs else None,
        token_requirements=_token_requirements(),
        max_connections=OPEN_FILES.share(MAX_CONNECTIONS, COORDINATOR_SHARE),
    )
    try:
        event_loop.run(_serve_until_signalled(server, database=database or None))
    except PortInUse as error:
        raise UsageError(f"{error}; choose another one with --port") from error


def _token_requirements() -> "TokenRequirements | None":
    """Return the requirements; None without AUTH_ENABLED. Raises `UsageError` naming an invalid or missing variable."""
    from fsm_runner.config.settings import TOKEN_CHECK_SETTINGS, load_token_check_config

    config = load_token_check_config()
    if not config.auth_enabled:
        return None
    if config.domain is None or config.audience is None:
        missing = [each.variable for each in TOKEN_CHECK_SETTINGS if getattr(config, each.field) is None]
        raise UsageError(
            f"AUTH_ENABLED is true, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: tokens "
            "need a signature of AUTH0_DOMAIN and the audience AUTH0_AUDIENCE"
        )
    # Loads the cryptography library.
    from fsm_runner.coordinator_server.auth.tokens import TokenRequirements

    return TokenRequirements(domain=config.domain, audience=config.audience)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"--port {text}: expected a number from 0 to 65535")
    return int(text)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


async def _serve_until_signalled(server: "CoordinatorServer", database: str | None) -> None:
    import asyncio

    from fsm_runner.cli.output import say
    from fsm_runner.cli.signals import on_ending_signals

    is_stopped = asyncio.Event()
    with on_ending_signals(lambda _: is_stopped.set()):
        async with server:
            storage = f"data in {database}" if database else "data in memory, lost at the end"
            say(
                f"Coordinator at {server.url}, {storage}. Submit a run: "
                f"fsm-runner submit AGENT key=value --coordinator-url {server.url}"
            )
            if server.is_open_to_others:
                say(
                    "WARNING: this coordinator listens on more than 127.0.0.1 and requires no tokens, so anyone who "
                    "reaches its port can run commands here: set AUTH_ENABLED=true with AUTH0_DOMAIN and "
                    "AUTH0_AUDIENCE, or listen on 127.0.0.1"
                )
            await is_stopped.wait()
