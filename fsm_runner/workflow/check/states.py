"""The rules about names and the ways between states."""

from collections.abc import Iterator

import msgspec

from fsm_runner.machine.decoder import Problem, similar
from fsm_runner.util.text import quoted
from fsm_runner.workflow.check.context import Context
from fsm_runner.workflow.check.graph import INTERRUPTED, edges_for, events_of
from fsm_runner.workflow.definition import CONTINUE, ENDINGS, IMPLICIT_STATES, REPEAT, Parameter, State, has_type

_RESERVED_VALUES = frozenset(
    {"params", "run", "item", "index", "has", "size", "int", "double", "true", "false", "null", "in"}
)
_RESERVED_STATES = frozenset({REPEAT, CONTINUE})


def name_is_that_of_the_file(context: Context) -> Iterator[Problem]:
    if context.file_name and context.file_name != context.definition.name:
        message = f"the file must be {context.definition.name}.toml, or the name {quoted(context.file_name)}"
        yield Problem(("name",), message)


def name_is_free(context: Context) -> Iterator[Problem]:
    for name, state in context.definition.states.items():
        value = context.definition.value_of(name)
        if state.activity is not None and value in _RESERVED_VALUES:
            place = ("states", name) if state.assigns is None else ("states", name, "assigns")
            message = f"no value can have the name {quoted(value)}, which means something else: choose another"
            yield Problem(place, message)
        if name in _RESERVED_STATES:
            message = f"no state can have the name {quoted(name)}, which `on_interrupted` uses: choose another"
            yield Problem(("states", name), message)
        if name in IMPLICIT_STATES and (not state.final or state.outcome not in (None, name)):
            yield Problem(("states", name), f"{quoted(name)} is a final state with this outcome: choose another name")


def next_state_exists(context: Context) -> Iterator[Problem]:
    initial = context.definition.initial
    if initial not in context.states:
        yield Problem(("initial",), f"{quoted(initial)} is not a state{_choice(initial, context)}")
    for name, state in context.definition.states.items():
        for event in (*events_of(state), "exhausted"):
            for edge in edges_for(name, state, event):
                if edge.target not in context.states:
                    hint = similar(edge.target, {*context.states, REPEAT, CONTINUE}) if event == INTERRUPTED else None
                    place = (*edge.place, "to") if isinstance(edge.place[-1], int) else edge.place
                    yield Problem(place, f"{quoted(edge.target)} is not a state{hint or _choice(edge.target, context)}")


def last_branch_has_no_condition(context: Context) -> Iterator[Problem]:
    for name, state in context.definition.states.items():
        for event in ENDINGS:
            declared = getattr(state, f"on_{event}")
            if not isinstance(declared, tuple):
                continue
            place = ("states", name, f"on_{event}")
            if not declared:
                yield Problem(place, "is empty: name a state")
            for index, branch in enumerate(declared):
                is_last = index == len(declared) - 1
                if is_last and branch.when is not None:
                    message = (
                        "the last branch must have no `when`, so that there is always a next state: add { to = … }"
                    )
                    yield Problem((*place, index), message)
                if not is_last and branch.when is None:
                    yield Problem((*place, index), "needs `when`: without it, no later branch is ever taken")


def state_can_be_reached(context: Context) -> Iterator[Problem]:
    if context.definition.initial not in context.states:
        return
    if any(_lacks_a_way_on(state) for state in context.definition.states.values()):
        return  # it may have led to the states that nothing leads to
    complete = all(
        edge.target in context.states
        for name, state in context.definition.states.items()
        for event in (*events_of(state), "exhausted")
        for edge in edges_for(name, state, event)
    )
    for name in context.definition.states:
        if complete and name not in context.graph.reachable:
            initial = quoted(context.definition.initial)
            message = f"cannot be reached from the initial state {initial}: lead to it, or remove it"
            yield Problem(("states", name), message)


def _lacks_a_way_on(state: State) -> bool:
    return not state.final and (
        not state.branches("done") or (state.approval is not None and not state.branches("denied"))
    )


def default_has_the_type_of_the_parameter(context: Context) -> Iterator[Problem]:
    for name, parameter in context.definition.params.items():
        if not isinstance(parameter, Parameter) or parameter.default is msgspec.UNSET:
            continue
        if not has_type(parameter.default, parameter.type):
            yield Problem(("params", name, "default"), f"must be of the type {parameter.type}")


def _choice(name: str, context: Context) -> str:
    return similar(name, context.states) or f"; there are {', '.join([*context.states][:20])}"
