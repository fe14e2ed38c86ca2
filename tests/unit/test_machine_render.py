"""Drawings and exports: what they show, and that no name can break them."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fsm_runner.machine.check import check
from fsm_runner.machine.render import FORMATS, LayoutError, render
from fsm_runner.machine.render.dot import dot
from fsm_runner.machine.render.embed import EmbedError, marker, renew
from fsm_runner.machine.render.markdown import markdown, tables
from fsm_runner.machine.render.mermaid import mermaid
from fsm_runner.machine.render.plantuml import plantuml
from fsm_runner.machine.render.scxml import NAMESPACE, scxml
from fsm_runner.machine.render.text import identifiers
from fsm_runner.machine.render.xstate import xstate
from fsm_runner.machine.spec import Spec, State, Transition
from tests.support.machine_specs import SPEC, specs, texts
from tests.support.specs import load

ROOT = Path(__file__).parents[2]
SPECS = sorted((ROOT / "specs").glob("*.toml"))


def test_the_example_is_sound() -> None:
    assert check(SPEC) == ()


def test_mermaid_has_names_as_ids_and_one_arrow_for_each_transition() -> None:
    drawing, styles = mermaid(SPEC).split("    classDef", 1)
    assert drawing == (
        "stateDiagram-v2\n"
        "    state in_use {\n"
        '        state "any of in_use" as any_of_in_use\n'
        "        closed\n"
        '        state "swinging open" as swinging_open\n'
        "        held\n"
        "    }\n"
        '    state "end" as s_end\n'
        "    broken\n"
        "    [*] --> closed\n"
        "    closed --> swinging_open: pushed\n"
        "    swinging_open --> s_end: opened [is_wide] / open\n"
        "    swinging_open --> held: opened\n"
        "    swinging_open --> broken: ✗ jammed / shut\n"
        "    swinging_open --> broken: ✗ too_slow / shut\n"
        "    held --> held: held_enough\n"
        "    held --> s_end: pushed\n"
        "    any_of_in_use --> held: fire / open\n"
    )
    assert "    class swinging_open working\n    class closed, held waiting\n" in styles
    assert "    class s_end good\n    class broken bad\n" in styles
    assert styles.endswith("    class closed, swinging_open, s_end main\n")


def test_a_brief_drawing_has_one_arrow_from_state_to_state_and_one_mark_for_failures() -> None:
    extra = Transition(source="swinging open", event="fire", to="broken", decides="shut")
    drawing = mermaid(replace(SPEC, transitions=(*SPEC.transitions, extra)), brief=True)
    assert "    swinging_open --> broken: fire / shut<br/>✗ / shut\n" in drawing
    assert "jammed" not in drawing


def test_an_arrow_of_a_group_starts_at_its_box() -> None:
    moved = [*SPEC.transitions[:-1], Transition(source="in_use", event="fire", to="broken")]
    spec = replace(SPEC, transitions=tuple(moved))
    assert "\n    in_use --> broken: fire\n" in mermaid(spec)
    assert '\n    "below in_use" -> broken [ltail=cluster_in_use, ' in dot(spec)
    assert "\nin_use -[#6e7781]-> broken : fire\n" in plantuml(spec)


def test_dot_makes_failures_recede_and_the_main_path_stand_out() -> None:
    drawing = dot(SPEC)
    styles = dict(re.findall(r" swinging_open -> (\w+) .*(penwidth=2.5|fontcolor=.#6e7781|style=dashed)", drawing))
    assert styles == {"s_end": "penwidth=2.5", "held": 'fontcolor="#6e7781', "broken": "style=dashed"}
    assert "subgraph cluster_in_use {" in drawing
    assert "swinging_open [label=<swinging open<br/>90 s, 3 retries>, " in drawing


def test_plantuml_declares_states_and_styles_arrows() -> None:
    drawing = plantuml(SPEC)
    assert drawing.startswith("@startuml\n")
    assert drawing.endswith("@enduml\n")
    assert '\n    state "swinging open" as swinging_open #eef4ff;line:3b6fb6;text:10233f\n' in drawing
    assert "\nswinging_open -[#1f2328,thickness=3]-> s_end : opened [is_wide] / open\n" in drawing
    assert "\nswinging_open -[#c0392b,dashed]-> broken : ✗ jammed / shut\n" in drawing


def test_markdown_has_a_diagram_and_tables() -> None:
    section = markdown(SPEC)
    assert section == f"### The machine `door`\n\n```mermaid\n{mermaid(SPEC)}```\n\n{tables(SPEC)}"
    assert section.endswith(tables(SPEC))
    for row in (
        "| `pushed` | Someone pushes \\| or pulls. |",
        "| in_use | In use. | closed, swinging open, held |",
        '| swinging open | The "motor" works; it is \\#1. | `open_door` | 90 s '
        "| 3 retries, 0.2 s to 2 s apart | `pushed` |  |",
        "| **end** |  |  |  |  |  | `open` (good) |",
        "| swinging open | `opened` | `is_wide` | end | `open` |  |",
        "| swinging open | ✗ `too_slow` |  | broken | `shut` |  |",
        "| held | `held_enough` |  | held |  | Once `more`. |",
        "| in_use | `fire` |  | held | `open` (provisional) |  |",
    ):
        assert f"\n{row}\n" in section


# Graphviz.


def test_without_graphviz_only_images_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for form in FORMATS.keys() - {"svg", "png"}:
        assert render(SPEC, form)
    with pytest.raises(LayoutError, match="apt-get install graphviz"):
        render(SPEC, "svg")


# Exports.


def _nodes(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for node in config.get("states", {}).values():
        yield node
        yield from _nodes(node)


def test_xstate_nests_groups_and_names_what_is_supplied_to_it() -> None:
    config = json.loads(xstate(SPEC))
    assert (config["id"], config["initial"]) == ("door", "in_use")
    assert list(config["states"]) == ["in_use", "s_end", "broken"]
    group = config["states"]["in_use"]
    assert (group["initial"], list(group["states"])) == ("closed", ["closed", "swinging_open", "held"])
    assert group["on"]["fire"] == [
        {"target": "#held", "actions": {"type": "decide", "params": {"outcome": "open", "provisional": True}}}
    ]
    swinging = group["states"]["swinging_open"]
    assert swinging["invoke"]["src"] == "open_door"
    assert [(way["target"], way.get("guard")) for way in swinging["invoke"]["onDone"]] == [
        ("#s_end", "is_wide"),
        ("#held", None),
    ]
    assert [way["target"] for way in swinging["invoke"]["onError"]] == ["#broken"]
    assert [way["target"] for way in swinging["after"]["90000"]] == ["#broken"]
    held = group["states"]["held"]
    assert held["after"]["hold_s"] == [{"target": "#held", "reenter": True, "description": "Once `more`."}]
    assert held["on"]["fire"] == {}, "an ignored event must override the group's transition"
    assert config["states"]["broken"] == {"id": "broken", "type": "final", "meta": {"outcome": "shut", "tone": "bad"}}


def test_scxml_nests_groups_and_times_states() -> None:
    root = ET.fromstring(scxml(SPEC))
    names = {"": NAMESPACE}
    assert root.get("initial") == "closed"
    assert [state.get("id") for state in root.findall("state/state", names)] == ["closed", "swinging_open", "held"]
    assert [state.get("id") for state in root.findall("final", names)] == ["s_end", "broken"]
    group = root.find("state", names)
    assert group is not None
    assert [way.attrib for way in group.findall("transition", names)] == [{"event": "fire", "target": "held"}]
    swinging, held = group.findall("state", names)[1:]
    sent = [element.attrib for element in root.findall(".//send", names)]
    assert sent == [
        {"event": "too_slow", "id": "swinging_open.time_limit", "delay": "90s"},
        {"event": "held_enough", "id": "held.time_limit", "delayexpr": "hold_s + 's'"},
    ]
    assert [way.get("cond") for way in swinging.findall("transition", names)] == ["is_wide", None, None, None]
    assert [way.attrib for way in held.findall("transition", names)] == [
        {"event": "fire"},
        {"event": "held_enough", "target": "held"},
        {"event": "pushed", "target": "s_end"},
    ]


def test_scxml_compares_the_outcome_that_it_has_assigned() -> None:
    spec = load(ROOT / "specs" / "run.toml")
    # A state of this name takes the identifier.
    named = msgspec.structs.replace(spec, states={**spec.states, "outcome": State()})
    for machine, variable in ((spec, "outcome"), (named, "outcome_")):
        root = ET.fromstring(scxml(machine))
        reported = [it for it in root.iter(f"{{{NAMESPACE}}}transition") if it.get("event") == "reported"]
        conditions = [f"{variable} === 'completed'", f"{variable} === 'stopped'", None]
        assert [it.get("cond") for it in reported] == conditions
        assert {it.get("location") for it in root.iter(f"{{{NAMESPACE}}}assign")} == {variable}
        assert [it.get("id") for it in root.iter(f"{{{NAMESPACE}}}data")] == [
            variable,
            *(
                "credential_is_limited",
                "workflow_waits",
                "has_expectations",
                "waits_for_limit",
                "limit_is_over",
                "is_superseded",
                "workflow_has_begun",
                "may_run_again",
            ),
            *("run_timeout_s", "limit_wait_s", "max_wall_s"),
        ]


# The children that the W3C allows for the elements that are used.
SCXML_CHILDREN = {
    "scxml": {"datamodel", "state", "final"},
    "datamodel": {"data"},
    "state": {"onentry", "onexit", "transition", "state", "invoke"},
    "onentry": {"send"},
    "onexit": {"cancel"},
    "transition": {"if"},
    "if": {"assign"},
    "invoke": {"param"},
}
NCNAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def _assert_sound_scxml(text: str) -> None:
    root = ET.fromstring(text)
    elements = list(root.iter())
    for element in elements:
        tag = element.tag.removeprefix(f"{{{NAMESPACE}}}")
        children = {child.tag.removeprefix(f"{{{NAMESPACE}}}") for child in element}
        assert children <= SCXML_CHILDREN.get(tag, set()), tag
    ids = [element.attrib["id"] for element in elements if "id" in element.attrib]
    assert len(set(ids)) == len(ids)
    assert all(NCNAME.fullmatch(id_) for id_ in ids)
    assert {element.attrib["target"] for element in elements if "target" in element.attrib} <= set(ids)


@pytest.mark.parametrize("file", SPECS, ids=lambda path: path.stem)
def test_the_programs_machines_are_exported_soundly(file: Path) -> None:
    spec = load(file)
    _assert_sound_scxml(scxml(spec))
    config = json.loads(xstate(spec))
    ids = [node["id"] for node in _nodes(config)]
    assert sorted(ids) == sorted({*spec.states, *spec.groups})
    assert set(re.findall(r'"target": "#(\w+)"', xstate(spec))) <= set(ids)
    assert {node["id"] for node in _nodes(config) if node.get("type") == "final"} == {
        name for name, state in spec.states.items() if state.final
    }


# Any names at all: sound or not, a spec that could be decoded is drawn if its groups are sound.


# Text that Mermaid and PlantUML take as text: plain characters and entities, and the line breaks and marks of a label.
TEXT = r"(?:[A-Za-z0-9_✗/\[\] ]|{}|{})+"
MERMAID_TEXT = TEXT.format(r"#\d+;", "<br/>")
MERMAID_LINE = re.compile(
    rf"""\s*(?:stateDiagram-v2
    | classDef\ [a-z]+\ [a-z:#0-9,-]+
    | class\ [\w, ]+\ [a-z]+
    | state\ \w+\ \{{
    | state\ "{MERMAID_TEXT}"\ as\ \w+(?:\ \{{)?
    | \w+ | \}}
    | \[\*\]\ -->\ \w+
    | \w+\ -->\ \w+:\ {MERMAID_TEXT})""".replace("#", r"\#"),
    re.VERBOSE | re.ASCII,
)
PLANTUML_TEXT = TEXT.format(r"<U\+[0-9A-F]{4,6}>", r"\\n")
PLANTUML_LINE = re.compile(
    rf"""\s*(?:@startuml | @enduml | hide\ empty\ description | \}}
    | state\ "{PLANTUML_TEXT}"\ as\ \w+\ [a-z0-9#;:]+(?:\ \{{)?
    | \[\*\]\ -->\ \w+
    | \w+\ -\[[a-z0-9#,=]+\]->\ \w+\ :\ {PLANTUML_TEXT})""".replace("#", r"\#"),
    re.VERBOSE | re.ASCII,
)

LINE_ENDS = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


@settings(max_examples=200, deadline=None)
@given(specs(), st.booleans())
def test_no_name_breaks_the_text_of_a_drawing(spec: Spec, brief: bool) -> None:
    for text, pattern in ((mermaid(spec, brief=brief), MERMAID_LINE), (plantuml(spec, brief=brief), PLANTUML_LINE)):
        *lines, last = LINE_ENDS.split(text)
        assert last == ""
        assert [line for line in lines if not pattern.fullmatch(line)] == []


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, max_size=6))
def test_identifiers_are_distinct_and_keep_names(names: list[str]) -> None:
    found = identifiers(names)
    assert len(set(found.values())) == len(set(names))
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", id_) for id_ in found.values())
    assert identifiers(["claimed", "end"]) == {"claimed": "claimed", "end": "s_end"}


@settings(max_examples=100, deadline=None)
@given(specs())
def test_no_name_breaks_the_markdown_section(spec: Spec) -> None:
    section = markdown(spec)
    before, block, after = section.split("```mermaid\n")[0], section.split("```mermaid\n")[1], section.split("```\n")[1]
    assert block.startswith("stateDiagram-v2\n")
    assert "\n" not in before.strip().replace("\n\n", "")
    parts = [part for part in (spec.events, spec.groups, spec.states, spec.transitions) if part]
    rows = [line for line in after.split("\n") if line.startswith("|")]
    assert len(rows) == sum(2 + len(part) for part in parts)
    assert all(line.endswith(" |") for line in rows)
    assert "<!--" not in re.sub(r"\\<|`[^`]*`", "", section)


# Documents.


@pytest.mark.parametrize("form", [form for form, it in FORMATS.items() if it.fence is not None])
def test_a_document_is_renewed_in_place(form: str) -> None:
    document = f"# Title\n\n{marker('door', form)}\noutdated\n<!-- /machine -->\nText after.\n"
    result = renew(document, SPEC)
    assert result is not None
    assert result.startswith(f"# Title\n\n{marker('door', form)}\n\n")
    assert result.endswith("\n\n<!-- /machine -->\nText after.\n")
    assert "outdated" not in result
    assert renew(result, SPEC) == result


def test_a_marker_asks_for_a_brief_drawing() -> None:
    result = renew(f"{marker('door', 'mermaid', brief=True)}\n<!-- /machine -->\n", SPEC)
    assert result is not None
    assert f"```mermaid\n{mermaid(SPEC, brief=True)}```\n" in result


def test_a_document_keeps_the_drawings_of_other_machines() -> None:
    other = f"{marker('run', 'mermaid')}\nkept\n<!-- /machine -->\n"
    assert renew(other, SPEC) is None
    result = renew(f"{other}{marker('door', 'mermaid')}\n<!-- /machine -->\n{other}", SPEC)
    assert result is not None
    assert result.startswith(other)
    assert result.endswith(other)


@pytest.mark.parametrize("behind", ["", "<!-- machine: run format: dot -->\n<!-- /machine -->\n"])
def test_a_drawing_without_an_end_is_refused(behind: str) -> None:
    with pytest.raises(EmbedError, match="line 2"):
        renew(f"Text\n{marker('door', 'dot')}\n{behind}", SPEC)
