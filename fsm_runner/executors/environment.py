"""The environment of an executor's process: built from a list, not inherited. `docs/executors.md` documents the list.

`executor_environment` returns the variables that stay the same while a runner lives, `session_variables` the others.
`Child.start` only adds the tag of the process tree (`FSM_RUNNER_TREE`).
"""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from fsm_runner.process.user import RunUser

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
_NO_PROXY = "no_proxy"
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
"""The addresses of the runner's gateway and MCP server, which no proxy can reach."""


def _both_cases(*names: str) -> tuple[str, ...]:
    """Some programs read a proxy variable in lower case, others in upper case."""
    return (*names, *(name.upper() for name in names))


PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TERM", "LANG", "LANGUAGE", "TZ"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    *_both_cases(*_PROXIES, _NO_PROXY),
)
"""The runner's variables that every executor gets, besides those that begin with `LC_`.
None is meant for a credential, but the URL of a proxy may contain one."""

SDK_FOLDER = Path(__file__).parents[1] / "sdk"
"""On the PYTHONPATH of protocol executors, so that `import fsm_executor` works in any interpreter."""


def executor_environment(
    inherited: Mapping[str, str],
    *,
    named: Iterable[str] = (),
    user: RunUser | None = None,
    tags: Mapping[str, str] | None = None,
    has_sdk: bool = False,
    uses_uv: bool = False,
) -> dict[str, str]:
    """Return the variables that an executor gets in every session; later ones of this list win.

    1. The variables of `inherited`, the runner's environment, that are in `PASSED_ON` or begin with `LC_`; with
       `uses_uv` also those that begin with `UV_`, by which uv finds its cache, interpreters and packages.
    2. Those that the profile or the executor's manifest has `named`, if they are set.
    3. `HOME`, `USER` and `LOGNAME` of the `user` that executors run as, if that is not the runner's own.
    4. `tags`, by which the executor's processes are recognized after the runner's end.
    5. If a proxy is set: `no_proxy` and `NO_PROXY`, to which the names of this machine are added.
    6. `PATH`, to which the folder of the runner's interpreter is added at the end. So `#!/usr/bin/env python3` finds
       the system's interpreter, and this one if the system has none.
    7. With `has_sdk`: `PYTHONPATH`, to which the folder of the SDK is added at the end.
    """
    prefixes = ("LC_", "UV_") if uses_uv else ("LC_",)
    environment = {name: value for name, value in inherited.items() if name in PASSED_ON or name.startswith(prefixes)}
    environment.update({name: inherited[name] for name in named if name in inherited})
    if user is not None:
        environment.update(HOME=user.home, USER=user.name, LOGNAME=user.name)
    environment.update(tags or {})
    if any(environment.get(name) for name in _both_cases(*_PROXIES)):
        _exempt_this_machine(environment)
    path = environment.get("PATH") or os.defpath
    # An embedded interpreter has no file.
    if sys.executable and (folder := str(Path(sys.executable).parent)) not in path.split(os.pathsep):
        path = f"{path}{os.pathsep}{folder}"
    environment["PATH"] = path
    if has_sdk:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(SDK_FOLDER)]))
    return environment


def session_variables(session_id: str, api_url: str | None = None) -> dict[str, str]:
    """Return the variables of one session. `api_url`: the address of its endpoint; None for a procedural executor."""
    return {"AGENT_SESSION_ID": session_id} | ({"AGENT_ORCHESTRATOR_API_URL": api_url} if api_url else {})


def _exempt_this_machine(environment: dict[str, str]) -> None:
    """Add the names of this machine to `no_proxy` and `NO_PROXY`. If one of them is not set, it gets the other."""
    lower, upper = _both_cases(_NO_PROXY)
    for name, other in ((lower, upper), (upper, lower)):
        hosts = environment.get(name) or environment.get(other) or ""
        listed = hosts.replace(",", " ").split()
        # For many programs `*` means every host only if the list has no other entry.
        missing = () if listed == ["*"] else [host for host in _THIS_MACHINE if host not in listed]
        environment[name] = ",".join(filter(None, [hosts.rstrip(", "), *missing]))
