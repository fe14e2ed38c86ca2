"""The tutorial in docs/workflows.md: a reader who follows it gets the files and the output that it shows."""

import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from tests.integration.test_readme_samples import is_like, plain, variables
from tests.support.program import REPOSITORY
from tests.support.terminal import OnTerminal, on_terminal

__all__ = ["variables"]

TUTORIAL = (REPOSITORY / "docs/workflows.md").read_text().partition("\n## A workflow in ten minutes\n")[2]
FENCE = re.compile(r"^```(bash|toml|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS_A_PROVIDER = "--profile quick"


class Block(NamedTuple):
    kind: str
    text: str


def blocks() -> Iterator[Block]:
    for kind, text in FENCE.findall(TUTORIAL.partition("\n## ")[0]):
        yield Block(kind, text)


def lines_on_screen(text: str) -> list[str]:
    """The lines as a terminal shows them: after a carriage return, a line is overwritten."""
    shown = re.sub(r"[^\n]*\r", "", text)
    return [line.rstrip() for line in plain(re.sub(r"( by) \w+$|\d\.\d ms", r"\1", shown, flags=re.MULTILINE))]


async def test_the_tutorial(tmp_path: Path, variables: dict[str, str]) -> None:
    folder, run_id = tmp_path, ""
    async with AsyncExitStack() as stack:
        asking: tuple[OnTerminal, list[str]] | None = None
        for block in blocks():
            if block.kind == "toml":
                _write(folder, block.text)
                continue
            if block.kind == "bash":
                if NEEDS_A_PROVIDER not in block.text:
                    async with on_terminal(block.text, folder, variables) as shell:
                        assert await shell.ends() == ""
                    folder = tmp_path / "notes"
                continue
            for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
                shown_lines = lines_on_screen(shown)
                started = await stack.enter_async_context(
                    on_terminal(re.sub(r"run_\w+", run_id, command), folder, variables)
                )
                if "waits for" in shown:
                    await started.shows("fsm-runner approve run_")
                    (run_id,) = re.findall(r"approve (run_[0-9a-f]+)", started.text())
                    asking = started, shown_lines
                else:
                    printed = lines_on_screen(await started.ends())
                    assert is_like(printed, shown_lines), f"`{command}` prints:\n" + "\n".join(printed)
        assert asking is not None
        printed = lines_on_screen(await asking[0].ends())
        assert is_like(printed, asking[1]), "the run that asks prints:\n" + "\n".join(printed)


def _write(folder: Path, text: str) -> None:
    """Write a block whose first line is a comment with the name of its file, exactly as the reader copies it."""
    found = re.match(r"# (\S+)\n", text)
    assert found is not None
    (folder / found[1]).write_text(text)
