"""Parsers of setting values. Each raises `ValueError` with the expected form."""

import math
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from fsm_runner.config.budgets import Budget
    from fsm_runner.process.limits.limits import ResourceLimits


def url(value: str) -> str:
    """A first check without httpx, which `fsm-runner health` must not load. `checked_url` is the complete one."""
    try:
        parts = urlsplit(value)
        is_valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or re.search(r"\s", value):
        login = "; in a user name or password, characters such as /, #, @ and spaces are percent-encoded"
        raise ValueError(f"expected http://HOST[:PORT] or https://HOST[:PORT]{login if '@' in value else ''}")
    return value


def domain(value: str) -> str:
    name, colon, digits = value.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", name) or (colon and not re.fullmatch(r"[0-9]{1,5}", digits)):
        raise ValueError("expected a host name, such as tenant.eu.auth0.com")
    if colon:
        port(digits)
    return value


def hostname(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", value):
        raise ValueError("expected a name of letters, digits, '.', '_' and '-'")
    return value


def tags(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(",") if word.strip())


def user(value: str) -> str:
    # The user is looked up where executors start, because other commands read this setting too.
    if not re.fullmatch("[^:\\s]+(:[^:\\s]+)?", value):
        raise ValueError("expected USER or UID:GID")
    return value


def limits(value: str) -> "ResourceLimits":
    from fsm_runner.process.limits.limits import parse_limits

    return parse_limits(value)


def budget(value: str) -> "Budget":
    from fsm_runner.config.budgets import parse_budget

    return parse_budget(value)


def boolean(value: str) -> bool:
    match value.lower():
        case "true" | "1" | "yes" | "on":
            return True
        case "false" | "0" | "no" | "off":
            return False
    raise ValueError("expected true or false")


def port(value: str) -> int:
    return _integer(value, 65_535, "a port from 1 to 65535")


def count(value: str) -> int:
    return _integer(value, 999_999_999, "a whole number from 1 up")


def _integer(value: str, high: int, expected: str) -> int:
    # `int` also accepts `1_000`, ` 5 ` and the digits of other scripts.
    if not re.fullmatch("[0-9]{1,9}", value) or not 1 <= int(value) <= high:
        raise ValueError(f"expected {expected}")
    return int(value)


def seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError("expected a number of seconds above 0")
    return number


def seconds_or_zero(value: str) -> float:
    try:
        return 0.0 if value == "0" else seconds(value)
    except ValueError:
        raise ValueError("expected a number of seconds, or 0") from None


UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
LONGEST_S = 36_500 * UNITS_S["d"]


def duration(value: str) -> float:
    """Return seconds. A number without a unit is one of seconds."""
    number, unit = (value[:-1], value[-1]) if value[-1:] in UNITS_S else (value, "s")
    try:
        duration_s = seconds(number) * UNITS_S[unit]
    except ValueError:
        duration_s = math.inf
    if duration_s > LONGEST_S:
        raise ValueError("expected a duration above 0 and up to 36500d, such as 90s, 15m, 2h or 30d")
    return duration_s
