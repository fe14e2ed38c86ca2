"""Writes a machine as SCXML, the W3C's language for state machines."""

from collections.abc import Iterable
from urllib.parse import quote
from xml.etree import ElementTree as ET

from fsm_runner.machine.render.statechart import Part, statechart
from fsm_runner.machine.render.text import identifiers, one_line
from fsm_runner.machine.spec import OUTCOME_GUARD, Spec, State, Transition

NAMESPACE = "http://www.w3.org/2005/07/scxml"


def scxml(spec: Spec) -> str:
    """Return a document whose data model is ECMAScript.

    Settings (in seconds) and guards are variables, and so is `outcome`, which a guard `outcome_is_…` compares. An
    activity gets the names of the events that it sends back as the parameters `on_done` and `on_error`.
    """
    chart = statechart(spec)
    own_events = (event for state in spec.states.values() for event in state.own_events)
    events = identifiers((*spec.events, *own_events, *(transition.event for transition in spec.transitions)))
    guards = (it.guard for it in spec.transitions if it.guard and not it.guard.startswith(OUTCOME_GUARD))
    settings = (it.timeout_s for it in spec.states.values() if isinstance(it.timeout_s, str))
    outcome = identifiers(["outcome"], chart.ids.values())["outcome"]
    variables = identifiers((*guards, *settings), (*chart.ids.values(), outcome))

    def add_parts(parent: ET.Element, parts: Iterable[Part]) -> None:
        for part in parts:
            is_final = isinstance(part.value, State) and part.value.final
            element = ET.SubElement(parent, "final" if is_final else "state", id=part.id)
            if isinstance(part.value, State):
                add_work(element, part.id, part.value)
            for event, transitions in part.answers.items():
                if not transitions:
                    ET.SubElement(element, "transition", event=events[event])
                for transition in transitions:
                    add_transition(element, transition)
            add_parts(element, part.members)

    def add_work(element: ET.Element, id_: str, state: State) -> None:
        if state.timeout_s is not None and state.on_timeout is not None:
            timer = ET.SubElement(ET.SubElement(element, "onentry"), "send", event=events[state.on_timeout])
            timer.set("id", f"{id_}.time_limit")
            if isinstance(state.timeout_s, str):
                timer.set("delayexpr", f"{variables[state.timeout_s]} + 's'")
            else:
                timer.set("delay", f"{state.timeout_s:g}s")
            ET.SubElement(ET.SubElement(element, "onexit"), "cancel", sendid=f"{id_}.time_limit")
        if state.invoke is not None:
            activity = ET.SubElement(element, "invoke", id=f"{id_}.activity", src=quote(one_line(state.invoke)))
            for name, event in (("on_done", state.on_done), ("on_error", state.on_error)):
                if event is not None:
                    ET.SubElement(activity, "param", name=name, expr=f"'{events[event]}'")

    def add_transition(element: ET.Element, transition: Transition) -> None:
        added = ET.SubElement(element, "transition", event=events[transition.event], target=chart.ids[transition.to])
        if transition.guard is not None:
            added.set("cond", condition(transition.guard))
        if transition.decides is not None:
            # The first outcome that is decided stays.
            first = ET.SubElement(added, "if", cond=f"{outcome} === undefined")
            ET.SubElement(first, "assign", location=outcome, expr=_literal(transition.decides))

    def condition(guard: str) -> str:
        if guard.startswith(OUTCOME_GUARD):
            return f"{outcome} === {_literal(guard.removeprefix(OUTCOME_GUARD))}"
        return variables[guard]

    root = ET.Element("scxml", xmlns=NAMESPACE, version="1.0", datamodel="ecmascript")
    root.set("name", identifiers([spec.name])[spec.name])
    root.set("initial", chart.ids[spec.initial])
    data = ET.SubElement(root, "datamodel")
    for variable in (outcome, *variables.values()):
        ET.SubElement(data, "data", id=variable)
    add_parts(root, chart.parts)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _literal(text: str) -> str:
    """Return a string of ECMAScript."""
    escaped = one_line(text).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
