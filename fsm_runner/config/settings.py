"""The runner's configuration: a flag wins over the environment, that over `.env`, that over the default.

Names are those of protocol.md, section 7. Empty strings count as not set, since compose files pass them.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from fsm_runner.diagnostics.redaction import Redactor, without_login
from fsm_runner.errors import UsageError
from fsm_runner.process.limits.limits import NO_LIMITS, ResourceLimits, parse_limits

DOTENV_FILE = ".env"
LOCAL_COORDINATOR_URL = "http://localhost:8765"
"""Where a coordinator listens by default, and where `submit` and `runs` look for one."""

TRUE_WORDS = frozenset({"true", "1", "yes", "on"})
FALSE_WORDS = frozenset({"false", "0", "no", "off"})


class RunnerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in seconds."""

    coordinator_url: str | None = None
    """None: the runner brings an embedded coordinator."""
    profile: str = "echo"
    project_dir: Path = Path()
    hostname: str | None = None
    """What the coordinator knows this machine as; None: as the machine is called."""
    tags: tuple[str, ...] = ()
    require_matching_tags: bool = False
    verbose: bool = False
    mcp_port: int | None = None
    external_mcp_url: str | None = None
    max_runs: int | None = None
    grace_period_s: float = 5.0
    run_timeout_s: float | None = None
    run_limits: ResourceLimits = NO_LIMITS
    run_as: str | None = None
    """The user that executors are started as; None: the runner's own."""
    session_idle_timeout_s: float | None = None
    exit_after_outage_s: float | None = None
    state_dir: Path | None = None
    """Where journals are kept; None: in memory, and nothing outlives the process."""
    poll_timeout_s: float = 30.0
    heartbeat_interval_s: float = 60.0
    auth0_domain: str | None = None
    auth0_client_id: str | None = None
    auth0_client_secret: str | None = None
    auth0_audience: str | None = None

    @property
    def auth0(self) -> "Auth0Login | None":
        """None unless all four variables are set (section 6)."""
        if self.auth0_domain and self.auth0_client_id and self.auth0_client_secret and self.auth0_audience:
            return Auth0Login(
                domain=self.auth0_domain,
                client_id=self.auth0_client_id,
                client_secret=self.auth0_client_secret,
                audience=self.auth0_audience,
            )
        return None


class Auth0Login(msgspec.Struct, frozen=True, kw_only=True):
    """What a token is asked for with."""

    domain: str
    client_id: str
    client_secret: str
    audience: str


class Setting(msgspec.Struct, frozen=True):
    """Where one field of `RunnerConfig` comes from."""

    field: str
    variable: str
    flag: str | None
    parse: Callable[[str], object]


def _text(value: str) -> str:
    return value


def _url(value: str) -> str:
    if not _is_url(value):
        login = "; in a user name or password, characters such as /, #, @ and spaces are percent-encoded"
        raise ValueError(f"expected http://HOST[:PORT] or https://HOST[:PORT]{login if '@' in value else ''}")
    return value


def _is_url(value: str) -> bool:
    """A first check without httpx, which `fsm-runner health` must not load. `checked_url` is the complete one."""
    try:
        parts = urlsplit(value)
        is_sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_sound and not re.search(r"\s", value)


def _host(value: str) -> str:
    name, colon, port = value.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", name) or (colon and not re.fullmatch(r"[0-9]{1,5}", port)):
        raise ValueError("expected a host name, such as tenant.eu.auth0.com")
    if colon:
        _port(port)
    return value


def _machine_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", value):
        raise ValueError("expected a name of letters, digits, '.', '_' and '-'")
    return value


def _folder(value: str) -> Path:
    return Path(value)


def _words(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(",") if word.strip())


def _user(value: str) -> str:
    # Whether there is such a user is looked up where executors are started: other commands read this setting too.
    if not re.fullmatch("[^:\\s]+(:[^:\\s]+)?", value):
        raise ValueError("expected USER or UID:GID")
    return value


def _truth(value: str) -> bool:
    if value.lower() in TRUE_WORDS:
        return True
    if value.lower() in FALSE_WORDS:
        return False
    raise ValueError("expected true or false")


def _whole(value: str, high: int, what: str) -> int:
    # `int` alone reads `1_000`, ` 5 ` and other scripts' digits too.
    if not re.fullmatch("[0-9]{1,9}", value) or not 1 <= int(value) <= high:
        raise ValueError(f"expected {what}")
    return int(value)


def _port(value: str) -> int:
    return _whole(value, 65_535, "a port from 1 to 65535")


def _count(value: str) -> int:
    return _whole(value, 999_999_999, "a whole number from 1 up")


def _seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError("expected a number of seconds above 0")
    return number


def _seconds_or_zero(value: str) -> float:
    try:
        return 0.0 if value == "0" else _seconds(value)
    except ValueError:
        raise ValueError("expected a number of seconds, or 0") from None


SETTINGS = (
    Setting("coordinator_url", "AGENT_ORCHESTRATOR_API_URL", "--coordinator-url", _url),
    Setting("profile", "PROFILE", "--profile", _text),
    Setting("project_dir", "PROJECT_DIR", "--project-dir", _folder),
    Setting("hostname", "RUNNER_HOSTNAME", "--hostname", _machine_name),
    Setting("tags", "RUNNER_TAGS", "--tags", _words),
    Setting("require_matching_tags", "REQUIRE_MATCHING_TAGS", "--require-matching-tags", _truth),
    Setting("verbose", "VERBOSE", "--verbose", _truth),
    Setting("mcp_port", "MCP_PORT", "--mcp-port", _port),
    Setting("external_mcp_url", "EXTERNAL_MCP_URL", "--external-mcp-url", _url),
    Setting("max_runs", "MAX_RUNS", "--max-runs", _count),
    Setting("grace_period_s", "GRACE_PERIOD", "--grace-period", _seconds_or_zero),
    Setting("run_timeout_s", "RUN_TIMEOUT", "--run-timeout", _seconds),
    Setting("run_limits", "RUN_LIMITS", "--run-limits", parse_limits),
    Setting("run_as", "RUN_AS", "--run-as", _user),
    Setting("session_idle_timeout_s", "SESSION_IDLE_TIMEOUT", "--session-idle-timeout", _seconds),
    Setting("exit_after_outage_s", "EXIT_AFTER_OUTAGE", "--exit-after-outage", _seconds),
    Setting("state_dir", "STATE_DIR", "--state-dir", _folder),
    Setting("poll_timeout_s", "POLL_TIMEOUT", None, _seconds),
    Setting("heartbeat_interval_s", "HEARTBEAT_INTERVAL", None, _seconds),
    Setting("auth0_domain", "AUTH0_DOMAIN", None, _host),
    Setting("auth0_client_id", "AUTH0_RUNNER_CLIENT_ID", None, _text),
    Setting("auth0_client_secret", "AUTH0_RUNNER_CLIENT_SECRET", None, _text),
    Setting("auth0_audience", "AUTH0_AUDIENCE", None, _text),
)
COORDINATOR_SETTINGS = (
    Setting("auth_enabled", "AUTH_ENABLED", None, _truth),
    Setting("domain", "AUTH0_DOMAIN", None, _host),
    Setting("audience", "AUTH0_AUDIENCE", None, _text),
)
"""Of `fsm-runner coordinator`, beside its flags."""


def load_config(flags: Mapping[str, str | None], environ: Mapping[str, str] | None = None) -> RunnerConfig:
    """`flags` holds the text of each flag by its field; None or absent: not given.

    Raises `UsageError` naming the flag or variable whose value is wrong.
    """
    environ = os.environ if environ is None else environ
    fields = {"state_dir": default_state_dir(environ), **given_fields(SETTINGS, flags, environ)}
    return _consistent(RunnerConfig(**fields))


def given_fields(
    settings: Iterable[Setting], flags: Mapping[str, str | None], environ: Mapping[str, str]
) -> dict[str, Any]:
    """The values of those that are given somewhere, by field. Raises `UsageError` as `load_config` does."""
    dotenv = read_dotenv(Path(DOTENV_FILE))
    fields: dict[str, Any] = {}
    for setting in settings:
        sources = (
            (setting.flag or "", flags.get(setting.field)),
            (setting.variable, environ.get(setting.variable)),
            (f"{setting.variable} in {DOTENV_FILE}", dotenv.get(setting.variable)),
        )
        given = next(((source, text) for source, text in sources if text), None)
        if given is not None:
            fields[setting.field] = _parsed(setting, *given)
    return fields


def read_dotenv(path: Path) -> Mapping[str, str | None]:
    """The variables of a `.env` file; empty where there is none. Raises `UsageError` where it cannot be read."""
    if not path.is_file():
        return {}
    import dotenv

    try:
        return dotenv.dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise UsageError(f"{path}: cannot be read: {fault}") from fault


def known_secrets() -> Redactor:
    """Of this process's environment and of `.env`. Raises `UsageError` where that cannot be read."""
    return Redactor.of_variables(os.environ, read_dotenv(Path(DOTENV_FILE)))


def _parsed(setting: Setting, source: str, text: str) -> object:
    try:
        text.encode()
        return setting.parse(text)
    except UnicodeEncodeError as defect:
        raise UsageError(f"{source}: {text!r}: not UTF-8 text") from defect
    except ValueError as defect:
        raise UsageError(f"{source}: {without_login(text)!r}: {defect}") from defect


def _consistent(config: RunnerConfig) -> RunnerConfig:
    if config.mcp_port is not None and config.external_mcp_url is not None:
        raise UsageError("--mcp-port (MCP_PORT) and --external-mcp-url (EXTERNAL_MCP_URL) exclude each other: give one")
    project_dir = _existing_folder(config.project_dir)
    state_dir = None if config.state_dir is None else config.state_dir.absolute()
    return msgspec.structs.replace(config, project_dir=project_dir, state_dir=state_dir)


def load_state_dir(flag: str | None) -> Path:
    """The folder of the journals, for who only reads them. Raises `UsageError`."""
    return load_config({"state_dir": flag}).state_dir or default_state_dir(os.environ)


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Where programs of this user keep what has to outlive them (XDG Base Directory Specification)."""
    base = environ.get("XDG_STATE_HOME") or ""
    folder = Path(base) if base.startswith("/") else Path(environ.get("HOME") or "/").joinpath(".local/state")
    return folder / "fsm-runner"


def _existing_folder(path: Path) -> Path:
    """The absolute path. Raises `UsageError` where it is no directory that can be seen and told to others."""
    source = "--project-dir (PROJECT_DIR)"
    try:
        folder = path.absolute()
        str(folder).encode()
        if not folder.is_dir():
            raise UsageError(f"{source}: there is no directory {folder}")
    except UnicodeEncodeError as defect:
        raise UsageError(f"{source}: {str(folder)!r}: not UTF-8 text") from defect
    except OSError as fault:
        raise UsageError(f"{source}: {path}: {fault.strerror}") from fault
    return folder
