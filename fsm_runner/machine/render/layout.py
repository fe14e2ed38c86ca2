"""Runs Graphviz: the one that comes with the Python package pygraphviz, or the program `dot`."""

import importlib.util
import shutil
import subprocess
import sys

from fsm_runner.errors import FsmRunnerError

LAYOUT_LIMIT_S = 60

# In a process of its own: Graphviz writes its warnings to standard error, and cannot be interrupted.
_WITH_PYGRAPHVIZ = (
    "import pygraphviz, sys; form, options = sys.argv[1:];"
    "graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode());"
    "sys.stdout.buffer.write(graph.draw(format=form, prog='dot', args=options))"
)


class LayoutError(FsmRunnerError):
    """Graphviz is missing or has failed. The text says what to do."""


def lay_out(source: str, form: str, options: str = "") -> bytes:
    """Return what Graphviz makes of a text in its language: `form` is one of its output formats.

    Raises `LayoutError`.
    """
    # No shell, and the text is given as input: nothing of a spec becomes part of a command.
    try:
        done = subprocess.run(  # noqa: S603
            _command(form, options), input=source.encode(), capture_output=True, timeout=LAYOUT_LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise LayoutError(f"Graphviz has not laid out the machine within {LAYOUT_LIMIT_S} s") from error
    except OSError as error:
        raise LayoutError(f"Graphviz cannot be started: {error}") from error
    if done.returncode != 0:
        how = f"exit code {done.returncode}" if done.returncode > 0 else f"killed by signal {-done.returncode}"
        reason = done.stderr.decode(errors="replace").strip()
        raise LayoutError(f"Graphviz could not lay out the machine: {reason} ({how})")
    return done.stdout


def _command(form: str, options: str) -> list[str]:
    if importlib.util.find_spec("pygraphviz") is not None:
        return [sys.executable, "-c", _WITH_PYGRAPHVIZ, form, options]
    if (program := shutil.which("dot")) is not None:
        return [program, f"-T{form}", *options.split()]
    raise LayoutError(
        "svg and png need Graphviz: install it with `pip install pygraphviz`, "
        "or install the program `dot` (apt-get install graphviz, brew install graphviz)"
    )
