"""A coordinator with scripts, and agents that run them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from fsm_runner.protocol.wire import Agent
from tests.support.runner import System, open_system


def write_script(folder: Path, name: str, text: str) -> None:
    """Write `{folder}/{name}/` in the form that the coordinator reads. `text` is a shell script."""
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "script.json").write_bytes(msgspec.json.encode({"name": name, "script_file": "run.sh"}))
    (place / "run.sh").write_text(f"#!/bin/sh\n{text}\n")


@asynccontextmanager
async def script_bench(folder: Path, scripts: Mapping[str, str]) -> AsyncIterator[System]:
    """Provide scripts in `{folder}/scripts`, and for each an agent `run-{script}`."""
    agents_dir, scripts_dir = folder / "agents", folder / "scripts"
    agents_dir.mkdir()
    scripts_dir.mkdir()
    for name, text in scripts.items():
        write_script(scripts_dir, name, text)
        agent = Agent(name=f"run-{name}", type="procedural", script=name, parameters_schema={"type": "object"})
        (agents_dir / f"{name}.json").write_bytes(msgspec.json.encode(agent))
    async with open_system(folder, agents_dir=agents_dir, scripts_dir=scripts_dir) as system:
        yield system
