"""Images of machines, which Graphviz lays out in a process of its own."""

import importlib.util
import re
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given, settings
from typer.testing import CliRunner, Result

from fsm_runner.cli.machine import app
from fsm_runner.cli.machine_diagram import check_document
from fsm_runner.machine.render import LayoutError, render
from fsm_runner.machine.render.svg import svg
from fsm_runner.machine.spec import Spec, State
from tests.support.machine_specs import SPEC, specs

ROOT = Path(__file__).parents[2]


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def test_svg_is_complete_in_itself_and_has_light_and_dark_colours() -> None:
    image = svg(SPEC, brief=True)
    texts = ["".join(text.itertext()) for text in ET.fromstring(image).iter("{http://www.w3.org/2000/svg}text")]
    for text in ("in_use", "swinging open", "90 s, 3 retries", "pushed", "✗ / shut", "any of in_use"):
        assert text in texts
    assert "prefers-color-scheme: dark" in image
    assert image.count("http") == 1
    assert re.search(r'<g class="bad"><rect [^>]+><text [^>]+>broken<', image)
    assert len(re.findall(r'<path class="main"', image)) == 3
    assert svg(SPEC, brief=True) == image


def test_arrows_do_not_hide_the_name_of_a_box() -> None:
    image = svg(SPEC, brief=True)
    assert max(found.start() for found in re.finditer('<path class="', image)) < image.index('<text class="name"')


def test_png_is_an_image() -> None:
    assert render(SPEC, "png").startswith(b"\x89PNG")


def test_a_graphviz_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho no fonts >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(LayoutError, match="no fonts"):
        render(SPEC, "png")


@settings(max_examples=5, deadline=None)
@given(specs())
@example(SPEC)
@example(Spec(name="]", initial="]", events={}, states={"]": State(doc="]", final=True, outcome="]")}, transitions=()))
def test_graphviz_accepts_any_names(spec: Spec) -> None:
    ET.fromstring(svg(spec))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "specs").glob("*.toml")))
def test_the_pictures_and_tables_of_machines_are_current(name: str) -> None:
    document, picture = ROOT / "docs" / "machines.md", f"images/machine-{name}.svg"
    assert check_document(name, "mermaid", str(document), brief=False) == 0
    # Another Graphviz places the parts differently.
    assert find_spec("pygraphviz"), "install requirements-dev.lock"
    assert check_document(name, "svg", str(ROOT / "docs" / picture), brief=True) == 0
    assert f"]({picture})" in document.read_text()


def test_an_image_is_checked_as_a_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("diagram", "-f", "svg", "--brief", "-o", "run.svg").exit_code == 0
    assert invoke("diagram", "-f", "svg", "--brief", "--check", "run.svg").exit_code == 0
    Path("run.svg").write_text(Path("run.svg").read_text().replace("executing", "working"))
    stale = invoke("diagram", "-f", "svg", "--brief", "--check", "run.svg")
    assert stale.exit_code == 1
    assert "renew it: fsm-runner machine diagram run --format svg --brief --output run.svg" in stale.stdout
