"""The environment of an executor: built from what it needs, not inherited."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
_NO_PROXY = "no_proxy"
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
"""Where the runner's gateway and its MCP server are; no proxy can reach them."""


def _both_cases(*names: str) -> tuple[str, ...]:
    """Programs differ in whether they read a proxy variable in lower case, in upper case, or in both."""
    return (*names, *(name.upper() for name in names))


PASSED_ON = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TERM"),
        *("LANG", "LANGUAGE", "TZ"),
        *_both_cases(*_PROXIES, _NO_PROXY),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    }
)
"""What an executor gets of the runner's own environment, with every `LC_…`. The runner's credentials are not in it."""


SDK_FOLDER = Path(__file__).parents[1] / "sdk"
"""On the PYTHONPATH of executors: `import fsm_executor` works there, whatever interpreter they have."""


def named_variables(inherited: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Those of the names that are set."""
    return {name: inherited[name] for name in names if name in inherited}


def uv_variables(inherited: Mapping[str, str]) -> dict[str, str]:
    """Where `uv` finds its cache, interpreters and packages; for executors that are started by it."""
    return {name: value for name, value in inherited.items() if name.startswith("UV_")}


def executor_environment(inherited: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """What is passed on of `inherited`, then `extra`, which wins.

    PATH ends with the folder of the interpreter that runs this program: `#!/usr/bin/env python3` finds one
    where the system has none of its own, and the system's own where it has. Where a proxy is passed on, this machine
    is exempt from it.
    """
    environment = {name: value for name, value in inherited.items() if name in PASSED_ON or name.startswith("LC_")}
    environment.update(extra)
    if any(environment.get(name) for name in _both_cases(*_PROXIES)):
        environment.update(_exempting_this_machine(environment))
    environment["PATH"] = _with_own_interpreter(environment.get("PATH") or os.defpath)
    return environment


def _with_own_interpreter(path: str) -> str:
    if not sys.executable:  # an embedded interpreter
        return path
    folder = str(Path(sys.executable).parent)
    return path if folder in path.split(os.pathsep) else f"{path}{os.pathsep}{folder}"


def _exempting_this_machine(environment: Mapping[str, str]) -> dict[str, str]:
    """`no_proxy` and `NO_PROXY`, each with the names of this machine added. One that is not set is like the other."""
    exempting = {}
    names = _both_cases(_NO_PROXY)
    for name, other in zip(names, reversed(names), strict=True):
        hosts = environment.get(name) or environment.get(other) or ""
        listed = hosts.replace(",", " ").split()
        # For many programs `*` means every host only if the list has no other entry.
        missing = () if listed == ["*"] else [host for host in _THIS_MACHINE if host not in listed]
        exempting[name] = ",".join(filter(None, [hosts.rstrip(", "), *missing]))
    return exempting
