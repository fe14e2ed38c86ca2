"""`fsm-runner machine`: check, draw and test the files that declare machines."""

from typing import Annotated

import typer

from fsm_runner.errors import UsageError

app = typer.Typer(
    help="Check, draw and test machines and workflows, and print the schema of the format.", no_args_is_help=True
)
_FORMATS = "mermaid, markdown, tables, svg, png, dot, plantuml, scxml or xstate"


@app.command()
def check(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...", help="Specs and workflows, or names of them. [all in the homes]", show_default=False
        ),
    ] = None,
) -> None:
    """List every defect of specs and workflows with its line and exit 1, or print nothing and exit 0 if all are sound.

    Without files, also check that the workflows exist that profiles and agents name.
    """
    from fsm_runner.cli.machine_check import check_files

    raise typer.Exit(check_files(files or []))


@app.command()
def test(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Workflows, or names of them. [all in the homes]", show_default=False),
    ] = None,
) -> None:
    """Carry out the scenarios beside workflows (NAME.scenarios.toml) and exit 1 if one fails."""
    from fsm_runner.cli.machine_test import rehearse_workflows

    raise typer.Exit(rehearse_workflows(files or []))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the spec format, for editors."""
    from fsm_runner.cli.output import show
    from fsm_runner.machine.schema import schema_text

    show(schema_text().rstrip("\n"))


@app.command()
def diagram(
    file: Annotated[
        str,
        typer.Argument(
            metavar="[FILE]", help="A spec or a workflow, or the name of one in a home. [run]", show_default=False
        ),
    ] = "run",
    form: Annotated[
        str, typer.Option("--format", "-f", metavar="FORMAT", help=f"{_FORMATS}. [mermaid]", show_default=False)
    ] = "mermaid",
    brief: Annotated[
        bool, typer.Option("--brief", help="One arrow from state to state, and one ✗ on it for all failures.")
    ] = False,
    in_run: Annotated[
        bool, typer.Option("--in-run", help="Draw a workflow inside the machine of the run that follows it.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to FILE; in a document, renew the marked part."),
    ] = None,
    check: Annotated[
        str | None, typer.Option("--check", metavar="FILE", help="Exit 1 if the drawing in FILE is not current.")
    ] = None,
) -> None:
    """Draw the machine that a spec or a workflow declares, or convert it for other tools."""
    from fsm_runner.cli.machine_diagram import check_document, draw

    if check is None:
        raise typer.Exit(draw(file, form, output, brief=brief, in_run=in_run))
    if output is not None:
        raise UsageError("--check and --output cannot be used together")
    raise typer.Exit(check_document(file, form, check, brief=brief, in_run=in_run))
