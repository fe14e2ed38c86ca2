"""The environment of an executor: built from what it needs, not inherited."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")

PASSED_ON = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TERM"),
        *("LANG", "LANGUAGE", "TZ"),
        *_PROXIES,
        *(name.upper() for name in _PROXIES),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    }
)
"""What an executor gets of the runner's own environment, with every `LC_…`. The runner's credentials are not in it."""


KIT_FOLDER = Path(__file__).parents[1] / "kit"
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
    where the system has none of its own, and the system's own where it has.
    """
    environment = {name: value for name, value in inherited.items() if name in PASSED_ON or name.startswith("LC_")}
    environment.update(extra)
    environment["PATH"] = _with_own_interpreter(environment.get("PATH") or os.defpath)
    return environment


def _with_own_interpreter(path: str) -> str:
    if not sys.executable:  # an embedded interpreter
        return path
    folder = str(Path(sys.executable).parent)
    return path if folder in path.split(os.pathsep) else f"{path}{os.pathsep}{folder}"
