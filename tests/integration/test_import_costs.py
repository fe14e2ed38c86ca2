"""Modules that the program loads only when it needs them."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["fsm_runner.app.build", "fsm_runner.coordinator_server.server"])
async def test_cryptography_is_loaded_only_if_tokens_are_required(module: str) -> None:
    check = f"import sys, {module}; assert not {{'jwt', 'cryptography'}} & set(sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", check)
    assert await process.wait() == 0


def test_the_commands_load_nothing_before_they_run() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from fsm_runner.cli.machine import app;"
        "assert CliRunner().invoke(app, ['diagram', '--help']).exit_code == 0;"
        "print([m for m in ('msgspec', 'transitions', 'starlette') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
