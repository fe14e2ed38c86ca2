"""`fsm-runner machine diagram`."""

import difflib
import shlex
import sys
from pathlib import Path

import typer

from fsm_runner.cli.machine_files import find_file, is_workflow, own_specs
from fsm_runner.cli.output import show
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, FsmRunnerError, UsageError
from fsm_runner.machine.check import checked
from fsm_runner.machine.defects import SpecError
from fsm_runner.machine.render import FORMATS, render
from fsm_runner.machine.render.embed import EmbedError, marker, renew
from fsm_runner.machine.spec import Spec
from fsm_runner.workflow.expansion import expansion_of, labelled
from fsm_runner.workflow.file import WorkflowError, load_workflow
from fsm_runner.workflow.nesting import nested

_DOCUMENTS = frozenset({".md", ".markdown", ".rst", ".txt"})


def draw(file: str, form: str, output: str | None, *, brief: bool, in_run: bool = False) -> int:
    """Write a drawing to a file, into the marked part of a document, or to standard output."""
    spec = _spec(file, form, brief=brief, in_run=in_run)
    if output is None:
        if form == "png" and sys.stdout.isatty():
            raise UsageError("a terminal cannot show a png: use --output FILE, or redirect standard output")
        # The drawing is an image, or text that the renderer has made printable.
        typer.echo(render(spec, form, brief=brief), nl=False)  # noqa: TID251
        return EXIT_OK
    path = Path(output)
    document = _text(path) if path.is_file() and FORMATS[form].fence is not None else None
    renewed = None if document is None else _renewed(path, document, spec)
    drawing = render(spec, form, brief=brief) if renewed is None else renewed.encode()
    if renewed is None and path.suffix in _DOCUMENTS and path.is_file() and not _is_drawing(path, drawing):
        raise UsageError(
            f"{output}: the drawing would replace this document. "
            f"Mark its place with a line {marker(spec.name, 'markdown')}"
        )
    try:
        path.write_bytes(drawing)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror or error}") from error
    return EXIT_OK


def check_document(file: str, form: str, document: str, *, brief: bool, in_run: bool = False) -> int:
    """Compare the drawing in a document with what it would be now, and print the difference."""
    if form == "png":
        raise UsageError("--check compares text: it cannot be used with --format png")
    spec, path = _spec(file, form, brief=brief, in_run=in_run), Path(document)
    if (present := _text(path)) is None:
        raise UsageError(f"{document}: is not UTF-8")
    renewed = _renewed(path, present, spec)
    wanted = render(spec, form, brief=brief).decode() if renewed is None else renewed
    if present == wanted:
        return EXIT_OK
    if renewed is None and not _is_drawing(path, wanted.encode()):
        raise FsmRunnerError(
            f"{document}: has no line {marker(spec.name, 'markdown')} (or another format), "
            f"and the whole file is not what --format {form} gives"
        )
    before, after = present.splitlines(keepends=True), wanted.splitlines(keepends=True)
    for line in difflib.unified_diff(before, after, document, f"{document} (current)"):
        show(line.removesuffix("\n"))
    options = ["--format", form, *(["--brief"] if brief else [])] if renewed is None else []
    if in_run:
        options = ["--in-run", *options]
    command = shlex.join(["fsm-runner", "machine", "diagram", file, *options, "--output", document])
    show(f"{document} is not current; renew it: {command}")
    return EXIT_FAILED


def _spec(file: str, form: str, *, brief: bool, in_run: bool) -> Spec:
    """Return the machine in a file. Raises `FsmRunnerError` unless it can be drawn in this form."""
    if form not in FORMATS:
        raise UsageError(f"--format: {form!r} is not one of {', '.join(FORMATS)}")
    if brief and not FORMATS[form].can_be_brief:
        raise UsageError(f"--brief: {form} has no brief form")
    path = find_file(file)
    try:
        if not is_workflow(path):
            if in_run:
                raise UsageError(f"--in-run: {file} is not a workflow")
            return checked(path)
        workflow = labelled(expansion_of(load_workflow(path).definition))
        return nested(checked(own_specs()["run"]), workflow) if in_run else workflow
    except (SpecError, WorkflowError) as error:
        raise FsmRunnerError(f"the machine has defects, so it cannot be drawn:\n{error}") from error


def _text(path: Path) -> str | None:
    """Return the document with its line ends as they are, or None if it is not UTF-8."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _renewed(path: Path, document: str, spec: Spec) -> str | None:
    try:
        return renew(document, spec)
    except EmbedError as error:
        raise UsageError(f"{path}: {error}") from error


def _is_drawing(path: Path, drawing: bytes) -> bool:
    """Return whether the file is an earlier drawing of the same kind, which may be replaced as a whole."""
    return path.read_bytes().partition(b"\n")[0] == drawing.partition(b"\n")[0]
