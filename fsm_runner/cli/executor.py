"""`fsm-runner executor`: commands for authors of executors."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Exit, Option, Typer

from fsm_runner.protocol.statuses import Lifecycle

app = Typer(no_args_is_help=True)


@app.callback()
def executor() -> None:
    """Write and check your own executor."""


@app.command()
def new(
    name: Annotated[str, Argument(metavar="NAME", show_default=False)],
    folder: Annotated[
        str, Option("--dir", metavar="FOLDER", help="The folder to write to. [working directory]", show_default=False)
    ] = ".",
    lifecycle: Annotated[
        Lifecycle, Option(help="persistent: a process for each session. one_shot: a process for each run.")
    ] = "persistent",
    language: Annotated[Literal["python", "sh"], Option(help="The language of the executor.")] = "python",
) -> None:
    """Write a working executor, its profile and its test."""
    from fsm_runner.cli.executor_new import write_executor

    write_executor(name, Path(folder), lifecycle, language)


@app.command()
def check(
    path: Annotated[str, Argument(metavar="PATH", show_default=False)],
    lifecycle: Annotated[
        str | None, Option(metavar="LIFECYCLE", help="persistent, one_shot or both. [the profile's, else one_shot]")
    ] = None,
    profile: Annotated[
        str | None,
        Option(
            "--profile",
            "-x",
            metavar="NAME",
            help="The profile with the config and env to use. [the first that names PATH]",
        ),
    ] = None,
    parameters: Annotated[
        str | None, Option(metavar="JSON", help='The parameters of its turns. [{"prompt": "hello"}]')
    ] = None,
    limited_parameters: Annotated[
        str | None,
        Option(
            metavar="JSON", help="Parameters with which it reports a limit of its provider, for the case `limited`."
        ),
    ] = None,
    timeout: Annotated[str | None, Option(metavar="SECONDS", help="The time limit of a case. [30]")] = None,
    json: Annotated[bool, Option("--json", help="Print JSON, one line for each case.", show_default=False)] = False,
) -> None:
    """Test an executor against the protocol, through the real gateway."""
    from fsm_runner.cli.executor_check import check_executor

    code = check_executor(
        path,
        lifecycle=lifecycle,
        profile=profile,
        parameters=parameters,
        limited_parameters=limited_parameters,
        timeout=timeout,
        as_json=json,
    )
    raise Exit(code)
