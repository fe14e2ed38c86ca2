"""Writes a machine as the configuration of an XState 5 machine, in JSON."""

import json
from typing import Any

import msgspec

from fsm_runner.machine.render.statechart import Part, statechart
from fsm_runner.machine.spec import Group, Spec, State, Transition


def xstate(spec: Spec) -> str:
    """Return what `createMachine` takes. Activities, guards, settings and `decide` are names, to be given to `setup`.

    A time limit is in milliseconds, or the name of a delay.
    """
    chart = statechart(spec)
    config = {"id": spec.name, "description": spec.doc, **_children(chart.parts, chart.ids, spec.initial)}
    return json.dumps(_present(config), indent=2, ensure_ascii=False) + "\n"


def _children(parts: tuple[Part, ...], ids: dict[str, str], initial: str) -> dict[str, Any]:
    first = next((part for part in parts if _contains(part, initial)), parts[0])
    return {"initial": first.id, "states": {part.id: _node(part, ids, initial) for part in parts}}


def _contains(part: Part, name: str) -> bool:
    return part.name == name or any(_contains(member, name) for member in part.members)


def _node(part: Part, ids: dict[str, str], initial: str) -> dict[str, Any]:
    value = part.value
    targets = {event: [_transition(it, part, ids) for it in found] for event, found in part.answers.items()}
    node: dict[str, Any] = {"id": part.id, "description": value.doc, "tags": value.tags}
    if isinstance(value, Group):
        node |= _children(part.members, ids, initial)
        meta: dict[str, Any] = {"reject": value.reject}
    else:
        node |= _work(value, targets)
        retry = None if value.retry is None else msgspec.structs.asdict(value.retry)
        meta = {"reject": value.reject, "outcome": value.outcome, "tone": value.tone, "retry": retry}
    # An empty transition overrides that of the group.
    node["on"] = {event: transitions or {} for event, transitions in targets.items()}
    node["meta"] = _present(meta)
    return _present(node)


def _work(state: State, targets: dict[str, Any]) -> dict[str, Any]:
    """Return the activity, time limit and type of a state. The events of its own are taken out of `targets`."""
    work: dict[str, Any] = {"type": "final"} if state.final else {}
    done, error, timeout = (targets.get(event or "") for event in (state.on_done, state.on_error, state.on_timeout))
    if state.invoke is not None:
        work["invoke"] = _present({"src": state.invoke, "onDone": done, "onError": error})
    if state.timeout_s is not None:
        limit = state.timeout_s if isinstance(state.timeout_s, str) else f"{state.timeout_s * 1000:g}"
        work["after"] = {limit: timeout or []}
    for event in state.own_events:
        targets.pop(event, None)
    return work


def _transition(transition: Transition, source: Part, ids: dict[str, str]) -> dict[str, Any]:
    params = _present({"outcome": transition.decides, "provisional": transition.provisional or None})
    decides = None if transition.decides is None else {"type": "decide", "params": params}
    again = transition.to == source.name or None
    fields = {"target": f"#{ids[transition.to]}", "guard": transition.guard, "reenter": again, "actions": decides}
    return _present({**fields, "description": transition.doc})


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields without those that are empty."""
    return {key: value for key, value in fields.items() if value not in (None, "", (), [], {})}
