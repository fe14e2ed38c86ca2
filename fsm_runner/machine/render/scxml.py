"""Writes a machine as SCXML, the W3C's language for state machines."""

from collections.abc import Iterable
from urllib.parse import quote
from xml.etree import ElementTree as ET

from fsm_runner.machine.render.statechart import Part, Statechart, statechart
from fsm_runner.machine.render.text import identifiers, one_line
from fsm_runner.machine.spec import Spec, State, Transition

NAMESPACE = "http://www.w3.org/2005/07/scxml"


def scxml(spec: Spec) -> str:
    """Return a document whose data model is ECMAScript.

    Guards and settings (in seconds) are variables, and so is `outcome`. An activity gets the names of the events that
    it sends back as the parameters `on_done` and `on_error`.
    """
    return _Writing(spec).text()


class _Writing:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._chart: Statechart = statechart(spec)
        events = (event for state in spec.states.values() for event in state.own_events)
        self._events = identifiers((*spec.events, *events, *(way.event for way in spec.transitions)))
        guards = (way.guard for way in spec.transitions if way.guard is not None)
        settings = (it.timeout_s for it in spec.states.values() if isinstance(it.timeout_s, str))
        self._variables = identifiers(("outcome", *guards, *settings), self._chart.ids.values())

    def text(self) -> str:
        root = ET.Element("scxml", xmlns=NAMESPACE, version="1.0", datamodel="ecmascript")
        root.set("name", identifiers([self._spec.name])[self._spec.name])
        root.set("initial", self._chart.ids[self._spec.initial])
        data = ET.SubElement(root, "datamodel")
        for variable in self._variables.values():
            ET.SubElement(data, "data", id=variable)
        self._add(root, self._chart.parts)
        ET.indent(root)
        return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

    def _add(self, parent: ET.Element, parts: Iterable[Part]) -> None:
        for part in parts:
            state = part.value if isinstance(part.value, State) else None
            element = ET.SubElement(parent, "final" if state is not None and state.final else "state", id=part.id)
            if state is not None:
                self._add_work(element, part, state)
            for event, ways in part.answers.items():
                if not ways:
                    ET.SubElement(element, "transition", event=self._events[event])
                for way in ways:
                    self._add_transition(element, way)
            self._add(element, part.members)

    def _add_work(self, element: ET.Element, part: Part, state: State) -> None:
        if state.timeout_s is not None and state.on_timeout is not None:
            timer = ET.SubElement(ET.SubElement(element, "onentry"), "send", event=self._events[state.on_timeout])
            timer.set("id", f"{part.id}.time_limit")
            if isinstance(state.timeout_s, str):
                timer.set("delayexpr", f"{self._variables[state.timeout_s]} + 's'")
            else:
                timer.set("delay", f"{state.timeout_s:g}s")
            ET.SubElement(ET.SubElement(element, "onexit"), "cancel", sendid=f"{part.id}.time_limit")
        if state.invoke is not None:
            activity = ET.SubElement(element, "invoke", id=f"{part.id}.activity", src=quote(one_line(state.invoke)))
            for name, event_name in (("on_done", state.on_done), ("on_error", state.on_error)):
                if event_name is not None:
                    ET.SubElement(activity, "param", name=name, expr=f"'{self._events[event_name]}'")

    def _add_transition(self, element: ET.Element, way: Transition) -> None:
        attributes = {"event": self._events[way.event], "target": self._chart.ids[way.to]}
        if way.guard is not None:
            attributes["cond"] = self._variables[way.guard]
        transition = ET.SubElement(element, "transition", attributes)
        if way.decides is not None:
            # The first outcome that is decided stays.
            first = ET.SubElement(transition, "if", cond="outcome === undefined")
            ET.SubElement(first, "assign", location="outcome", expr=_literal(way.decides))


def _literal(text: str) -> str:
    return "'" + one_line(text).replace("\\", "\\\\").replace("'", "\\'") + "'"
