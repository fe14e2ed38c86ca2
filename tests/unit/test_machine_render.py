"""Drawings: what they show, and that no name can break them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fsm_runner.machine.render import FORMATS, GraphvizFailed, GraphvizMissing, render
from fsm_runner.machine.render.dot import dot
from fsm_runner.machine.render.embed import EmbedError, marker, renewed
from fsm_runner.machine.render.markdown import markdown
from fsm_runner.machine.render.mermaid import mermaid
from fsm_runner.machine.spec import Retry, Spec, State, Transition
from fsm_runner.machine.spec_file import load

SPECS = Path(__file__).parents[2] / "specs"

SPEC = Spec(
    name="door",
    initial="swinging open",
    doc="A door.",
    events={"pushed": "Someone pushes | or pulls."},
    states={
        "swinging open": State(
            doc='The "motor" works; it is #1.',
            invoke="open_door",
            timeout_s=90,
            retry=Retry(times=3, base_s=0.2, cap_s=2),
            on_done="opened",
            on_error="jammed",
            on_timeout="too_slow",
            ignore=("pushed",),
        ),
        "end": State(final=True, outcome="open", tone="good"),
        "broken": State(final=True, outcome="shut", tone="bad"),
    },
    transitions=(
        Transition(source="swinging open", event="opened", to="end", guard="is_wide", decides="open"),
        Transition(source="swinging open", event="opened", to="broken"),
        Transition(source="swinging open", event="jammed", to="broken", decides="shut"),
        Transition(source="swinging open", event="too_slow", to="swinging open", doc="Once more."),
    ),
)

needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")


def test_mermaid_shows_all_of_a_machine() -> None:
    drawing = mermaid(SPEC)
    for line in (
        'state "swinging open" as s1',
        "s1: The #34;motor#34; works#59; it is #35;1.",
        "s1: does open_door",
        "s1: at most 90 s",
        "s1: 3 retries, 0.2 s to 2 s apart",
        'state "end" as s2',
        "s2: outcome#58; open",
        "[*] --> s1",
        "s1 --> s2: opened #91;is_wide#93; #47; open",
        "s1 --> s3: opened<br/>✗#160;jammed #47; shut",
        "s1 --> s1: ✗#160;too_slow",
        "s2 --> [*]",
        "s3 --> [*]",
        "class s1 working",
        "class s2 good",
        "class s3 bad",
    ):
        assert f"    {line}\n" in drawing


def test_dot_draws_failures_apart() -> None:
    drawing = dot(SPEC)
    assert 's1 -> s3 [label=<opened<br align="left"/>>]' in drawing
    assert 's1 -> s3 [label=<jammed / shut<br align="left"/>>, style=dashed, color="#c0392b"' in drawing
    assert 's1 -> s2 [label=<opened [is_wide&#93; / open<br align="left"/>>]' in drawing
    assert "<i>The &quot;motor&quot; works; it is #1.</i><br/>does open_door<br/>at most 90 s" in drawing
    assert drawing.count("peripheries=2") == 2


def test_markdown_has_tables_of_states_and_transitions() -> None:
    section = markdown(SPEC)
    assert section.startswith("### The machine `door`\n\nA door.\n\n```mermaid\nstateDiagram-v2\n")
    assert "| `pushed` | Someone pushes \\| or pulls. |\n" in section
    assert (
        '| swinging open | The "motor" works; it is \\#1. | `open_door` | 90 s '
        "| 3 retries, 0.2 s to 2 s apart | `pushed` |  |\n" in section
    )
    assert "| **end** |  |  |  |  |  | `open` |\n" in section
    assert "| swinging open | `opened` | `is_wide` | end | `open` |  |\n" in section
    assert "| swinging open | ✗ `too_slow` |  | swinging open |  | Once more. |\n" in section


@needs_graphviz
def test_svg_and_png_are_images() -> None:
    assert b"<svg" in render(SPEC, "svg")
    assert render(SPEC, "png").startswith(b"\x89PNG")


def test_without_graphviz_only_images_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for form in FORMATS.keys() - {"svg", "png"}:
        assert render(SPEC, form)
    with pytest.raises(GraphvizMissing, match="apt-get install graphviz"):
        render(SPEC, "svg")


def test_a_graphviz_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho no fonts >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(GraphvizFailed, match="no fonts"):
        render(SPEC, "png")


# Any names at all: sound or not, a spec that could be decoded is drawn.

texts = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["end", "state", "note", "[*]", "a b", 'x"y', "a:b", "c;d", "#1", "--", "-->", "%%", "</b>", "`", "```", "|", "\\"]
)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    names = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
    states = {
        name: State(
            doc=draw(texts), invoke=draw(texts), timeout_s=draw(texts), on_error=draw(texts), outcome=draw(texts),
            final=draw(st.booleans()), ignore=tuple(draw(st.lists(texts, max_size=2))),
        )
        for name in names
    }  # fmt: skip
    anywhere = st.sampled_from(names) | texts
    ways = st.builds(Transition, source=anywhere, event=texts, to=anywhere, guard=texts, decides=texts, doc=texts)
    return Spec(
        name=draw(texts), initial=draw(anywhere), doc=draw(texts),
        events=draw(st.dictionaries(texts, texts, max_size=2)),
        states=states, transitions=tuple(draw(st.lists(ways, max_size=4))),
    )  # fmt: skip


# Text that Mermaid takes as text: plain characters and its entities, and the line breaks and marks of a label.
LABEL = r"(?:[A-Za-z0-9_.,()✗ ]|#\d+;|<br/>)+"
MERMAID_LINE = re.compile(
    rf"""stateDiagram-v2
    |\ {{4}}classDef\ [a-z]+\ [a-z:#0-9,]+
    |\ {{4}}state\ "{LABEL}"\ as\ s\d+
    |\ {{4}}s\d+:\ {LABEL}
    |\ {{4}}\[\*\]\ -->\ s\d+
    |\ {{4}}s\d+\ -->\ (?:\[\*\]|s\d+:\ {LABEL})
    |\ {{4}}class\ s\d+\ [a-z]+""".replace("#", r"\#"),
    re.VERBOSE,
)

LINE_ENDS = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


@settings(max_examples=200, deadline=None)
@given(specs())
def test_no_name_breaks_the_mermaid_text(spec: Spec) -> None:
    *lines, last = LINE_ENDS.split(mermaid(spec))
    assert last == ""
    assert [line for line in lines if not MERMAID_LINE.fullmatch(line)] == []


@settings(max_examples=100, deadline=None)
@given(specs())
def test_no_name_breaks_the_markdown_section(spec: Spec) -> None:
    section = markdown(spec)
    before, block, after = section.split("```mermaid\n")[0], section.split("```mermaid\n")[1], section.split("```\n")[1]
    assert block.startswith("stateDiagram-v2\n")
    assert "\n" not in before.strip().replace("\n\n", "")
    tables = [line for line in after.split("\n") if line.startswith("|")]
    assert len(tables) == 2 * (2 + bool(spec.events)) + len(spec.events) + len(spec.states) + len(spec.transitions) - (
        0 if spec.transitions else 2
    )
    assert all(line.endswith(" |") for line in tables)
    assert "<!--" not in re.sub(r"\\<|`[^`]*`", "", section)


@needs_graphviz
@settings(max_examples=25, deadline=None)
@given(specs())
@example(SPEC)
@example(Spec(name="]", initial="]", events={}, states={"]": State(doc="]", final=True, outcome="]")}, transitions=()))
def test_graphviz_accepts_any_names(spec: Spec) -> None:
    done = subprocess.run(["dot", "-Tsvg"], input=dot(spec).encode(), capture_output=True, timeout=60)
    errors = [line for line in done.stderr.decode().splitlines() if "Fontconfig" not in line]
    assert (done.returncode, errors) == (0, [])


# Documents.


@pytest.mark.parametrize("form", ["markdown", "mermaid", "dot"])
def test_a_document_is_renewed_in_place(form: str) -> None:
    document = f"# Title\n\n{marker('door', form)}\nold\n<!-- /machine -->\nText after.\n"
    result = renewed(document, SPEC)
    assert result is not None
    assert result.startswith(f"# Title\n\n{marker('door', form)}\n\n")
    assert result.endswith("\n\n<!-- /machine -->\nText after.\n")
    assert "old" not in result
    assert renewed(result, SPEC) == result


def test_a_document_keeps_the_drawings_of_other_machines() -> None:
    other = f"{marker('run', 'mermaid')}\nkept\n<!-- /machine -->\n"
    assert renewed(other, SPEC) is None
    result = renewed(f"{other}{marker('door', 'mermaid')}\n<!-- /machine -->\n{other}", SPEC)
    assert result is not None
    assert result.startswith(other)
    assert result.endswith(other)


@pytest.mark.parametrize("behind", ["", "<!-- machine: run format: dot -->\n<!-- /machine -->\n"])
def test_a_drawing_without_an_end_is_refused(behind: str) -> None:
    with pytest.raises(EmbedError, match="line 2"):
        renewed(f"Text\n{marker('door', 'dot')}\n{behind}", SPEC)


@pytest.mark.parametrize("name", ["run", "runner"])
def test_the_documentation_shows_the_machines_as_they_are(name: str) -> None:
    document = (SPECS.parent / "docs" / "machines.md").read_text()
    assert renewed(document, load(SPECS / f"{name}.toml")) == document
