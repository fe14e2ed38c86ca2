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
from fsm_runner.machine.render import FORMATS, GraphvizError, render
from fsm_runner.machine.render.embed import EmbedError, marker, renewed
from fsm_runner.machine.spec import Spec

DEFAULT_FORMAT = "mermaid"
_IMAGES = frozenset({"svg", "png"})
_DOCUMENTS = frozenset({".md", ".markdown", ".rst", ".txt"})


def draw(file: str, form: str | None, output: str | None) -> int:
    """Write a drawing to a file, into a document that has a place for it, or to standard output."""
    form = _known(form)
    spec = _sound(file)
    if output is None:
        _print(spec, form)
        return EXIT_OK
    path = Path(output)
    document = _text(path) if path.is_file() and form not in _IMAGES else None
    part = None if document is None else _renewed(path, document, spec)
    drawing = _render(spec, form) if part is None else part.encode()
    if part is None and path.suffix in _DOCUMENTS and path.is_file() and not _is_drawing(path, drawing):
        raise UsageError(
            f"{output}: the drawing would replace this document: it has no line {marker(spec.name, 'markdown')} "
            "(or mermaid, or dot) to say where it belongs"
        )
    try:
        path.write_bytes(drawing)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror or error}") from error
    return EXIT_OK


def check_document(file: str, form: str | None, output: str | None, document: str) -> int:
    """Compare the drawing in a document with what it would be now, and print what differs."""
    if output is not None:
        raise UsageError("--check and --output cannot go together")
    form = _known(form)
    if form in _IMAGES:
        raise UsageError(f"--check compares text: it cannot be used with --format {form}")
    path = Path(document)
    spec = _sound(file)
    present = _text(path)
    if present is None:
        raise UsageError(f"{document}: is not UTF-8")
    part = _renewed(path, present, spec)
    wanted = _render(spec, form).decode() if part is None else part
    if present == wanted:
        return EXIT_OK
    if part is None:
        raise FsmRunnerError(
            f"{document}: there is no line {marker(spec.name, 'markdown')} (or mermaid, or dot), "
            f"and the whole file is not what --format {form} gives"
        )
    show(_difference(document, present, wanted).rstrip("\n"))
    show(f"{document} is not current; renew it: fsm-runner machine diagram {_quoted(file, '--output', document)}")
    return EXIT_FAILED


def _known(form: str | None) -> str:
    form = form or DEFAULT_FORMAT
    if form not in FORMATS:
        raise UsageError(f"--format: there is no {form!r}, there are {', '.join(FORMATS)}")
    return form


def _sound(file: str) -> Spec:
    try:
        return checked(find_spec(file))
    except SpecError as error:
        raise FsmRunnerError(f"a machine that is not sound is not drawn:\n{error}") from error


def _print(spec: Spec, form: str) -> None:
    if form == "png" and sys.stdout.isatty():
        raise UsageError("a png is not for a terminal: give --output FILE, or redirect standard output")
    typer.echo(_render(spec, form), nl=False)  # noqa: TID251 - an image, or text that the renderer has made printable


def _render(spec: Spec, form: str) -> bytes:
    try:
        return render(spec, form)
    except GraphvizError as error:
        raise FsmRunnerError(str(error)) from error


def _text(path: Path) -> str | None:
    """The document, its line ends as they are; None when it is not UTF-8."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _renewed(path: Path, document: str, spec: Spec) -> str | None:
    try:
        return renewed(document, spec)
    except EmbedError as error:
        raise UsageError(f"{path}: {error}") from error


def _is_drawing(path: Path, drawing: bytes) -> bool:
    """Whether the file is an earlier drawing of the same kind, which may be replaced as a whole."""
    return path.read_bytes().partition(b"\n")[0] == drawing.partition(b"\n")[0]


def _difference(name: str, present: str, wanted: str) -> str:
    lines = difflib.unified_diff(
        present.splitlines(keepends=True), wanted.splitlines(keepends=True), name, f"{name} (current)"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _quoted(*words: str) -> str:
    return " ".join(shlex.quote(word) for word in words)
