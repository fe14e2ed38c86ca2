"""Has Graphviz lay a machine out as an image."""

import shutil
import subprocess

from fsm_runner.machine.render.dot import dot
from fsm_runner.machine.spec import Spec

LAYOUT_LIMIT_S = 60


class GraphvizError(Exception):
    """No image could be made. The text says what to do."""


class GraphvizMissing(GraphvizError):
    def __init__(self) -> None:
        super().__init__(
            "svg and png need the program `dot` of Graphviz, which is not installed: "
            "apt-get install graphviz, or brew install graphviz. mermaid, dot and markdown need nothing."
        )


class GraphvizFailed(GraphvizError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"Graphviz could not draw the machine: {reason}")


def svg(spec: Spec) -> bytes:
    """Raises `GraphvizMissing`, `GraphvizFailed`."""
    return _laid_out(spec, "svg")


def png(spec: Spec) -> bytes:
    """Raises `GraphvizMissing`, `GraphvizFailed`."""
    return _laid_out(spec, "png", "-Gdpi=144")


def _laid_out(spec: Spec, form: str, *options: str) -> bytes:
    program = shutil.which("dot")
    if program is None:
        raise GraphvizMissing
    command = [program, f"-T{form}", *options]
    try:
        # No shell, and the drawing is given as input: nothing of a spec becomes part of a command.
        done = subprocess.run(command, input=dot(spec).encode(), capture_output=True, timeout=LAYOUT_LIMIT_S)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise GraphvizFailed(f"not done after {LAYOUT_LIMIT_S} s") from error
    except OSError as error:
        raise GraphvizFailed(f"{program}: {error.strerror or error}") from error
    if done.returncode != 0:
        how = f"exit code {done.returncode}" if done.returncode > 0 else f"killed by signal {-done.returncode}"
        raise GraphvizFailed(f"{done.stderr.decode(errors='replace').strip()} ({how})".lstrip())
    return done.stdout
