"""`fsm-runner machine diagram`."""

import difflib
import shlex
import sys
from pathlib import Path

import typer

from fsm_runner.cli.machine_check import find_spec
from fsm_runner.cli.output import show
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, FsmRunnerError, UsageError
from fsm_runner.machine.check import checked
from fsm_runner.machine.defects import SpecError
from fsm_runner.machine.render import FORMATS, LayoutError, render
from fsm_runner.machine.render.embed import EmbedError, marker, renew
from fsm_runner.machine.spec import Spec

DEFAULT_FORMAT = "mermaid"
_DOCUMENTS = frozenset({".md", ".markdown", ".rst", ".txt"})


def draw(file: str, form: str | None, output: str | None, *, brief: bool) -> int:
    """Write a drawing to a file, into the marked part of a document, or to standard output."""
    form = _known(form, brief)
    spec = _sound(file)
    if output is None:
        _print(_render(spec, form, brief), form)
        return EXIT_OK
    path = Path(output)
    document = _text(path) if path.is_file() and FORMATS[form].fence is not None else None
    part = None if document is None else _renewed(path, document, spec)
    drawing = _render(spec, form, brief) if part is None else part.encode()
    if part is None and path.suffix in _DOCUMENTS and path.is_file() and not _is_drawing(path, drawing):
        raise UsageError(
            f"{output}: the drawing would replace this document. "
            f"Mark its place with a line {marker(spec.name, 'markdown')}"
        )
    try:
        path.write_bytes(drawing)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror or error}") from error
    return EXIT_OK


def check_document(file: str, form: str | None, output: str | None, document: str, *, brief: bool) -> int:
    """Compare the drawing in a document with what it would be now, and print the difference."""
    if output is not None:
        raise UsageError("--check and --output cannot be used together")
    form = _known(form, brief)
    if form == "png":
        raise UsageError("--check compares text: it cannot be used with --format png")
    path = Path(document)
    spec = _sound(file)
    present = _text(path)
    if present is None:
        raise UsageError(f"{document}: is not UTF-8")
    part = _renewed(path, present, spec)
    wanted = _render(spec, form, brief).decode() if part is None else part
    if present == wanted:
        return EXIT_OK
    options = [] if part is not None else ["--format", form, *(["--brief"] if brief else [])]
    if part is None and not _is_drawing(path, wanted.encode()):
        raise FsmRunnerError(
            f"{document}: has no line {marker(spec.name, 'markdown')} (or another format), "
            f"and the whole file is not what --format {form} gives"
        )
    show(_difference(document, present, wanted).rstrip("\n"))
    command = _quoted(file, *options, "--output", document)
    show(f"{document} is not current; renew it: fsm-runner machine diagram {command}")
    return EXIT_FAILED


def _known(form: str | None, brief: bool) -> str:
    form = form or DEFAULT_FORMAT
    if form not in FORMATS:
        raise UsageError(f"--format: {form!r} is not one of {', '.join(FORMATS)}")
    if brief and not FORMATS[form].can_be_brief:
        raise UsageError(f"--brief: {form} has no brief form")
    return form


def _sound(file: str) -> Spec:
    try:
        return checked(find_spec(file))
    except SpecError as error:
        raise FsmRunnerError(f"the machine has defects, so it cannot be drawn:\n{error}") from error


def _print(drawing: bytes, form: str) -> None:
    if form == "png" and sys.stdout.isatty():
        raise UsageError("a terminal cannot show a png: use --output FILE, or redirect standard output")
    typer.echo(drawing, nl=False)  # noqa: TID251 - an image, or text that the renderer has made printable


def _render(spec: Spec, form: str, brief: bool) -> bytes:
    try:
        return render(spec, form, brief=brief)
    except LayoutError as error:
        raise FsmRunnerError(str(error)) from error


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


def _difference(name: str, present: str, wanted: str) -> str:
    lines = difflib.unified_diff(
        present.splitlines(keepends=True), wanted.splitlines(keepends=True), name, f"{name} (current)"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _quoted(*words: str) -> str:
    return " ".join(shlex.quote(word) for word in words)
