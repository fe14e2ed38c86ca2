"""`fsm-runner executor`: for those who write executors."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


class Lifecycle(StrEnum):
    PERSISTENT = "persistent"
    ONE_SHOT = "one_shot"


class Language(StrEnum):
    PYTHON = "python"
    SH = "sh"


@app.callback()
def executor() -> None:
    """Write an executor of your own."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    folder: Annotated[
        str, typer.Option("--dir", metavar="FOLDER", help="Where to write. [working directory]", show_default=False)
    ] = ".",
    lifecycle: Annotated[
        Lifecycle, typer.Option(help="One process for a session, or one for each run.")
    ] = Lifecycle.PERSISTENT,
    language: Annotated[Language, typer.Option(help="What it is written in.")] = Language.PYTHON,
) -> None:
    """Write an executor that works, its profile and its test."""
    from fsm_runner.cli.executor_new import write_executor

    write_executor(name, Path(folder), lifecycle.value, language.value)


@app.command()
def check(
    path: Annotated[str, typer.Argument(metavar="PATH", show_default=False)],
    lifecycle: Annotated[
        str | None,
        typer.Option(metavar="LIFECYCLE", help="persistent, one_shot or both. [as the profile has it, else one_shot]"),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", "-x", metavar="NAME", help="Whose config and env are used. [the first with PATH]"),
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(metavar="JSON", help='What its turns are given. [{"prompt": "hello"}]')
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="SECONDS", help="How long a case may take. [30]")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one case a line.", show_default=False)] = False,
) -> None:
    """Drive an executor through the gateway, and say what of the protocol holds."""
    from fsm_runner.cli.executor_check import check_executor

    raise typer.Exit(
        check_executor(path, lifecycle=lifecycle, profile=profile, parameters=parameters, timeout=timeout, as_json=json)
    )
