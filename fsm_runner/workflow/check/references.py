"""The rules about what templates and guards name. They note each use for the rule about assignment."""

from collections.abc import Iterator

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.defects import Path
from fsm_runner.util.text import quoted
from fsm_runner.workflow.arguments import templates_of
from fsm_runner.workflow.check.context import Context, Use
from fsm_runner.workflow.check.graph import Edge
from fsm_runner.workflow.check.types import element_type
from fsm_runner.workflow.definition import Agent, type_name
from fsm_runner.workflow.expressions import ExpressionError, compile_guard
from fsm_runner.workflow.templates import ITEM_NAMES, Reference, TemplateError, parts_of, texts_in
from fsm_runner.workflow.value_types import Kind, NameTypes, UnknownPath, ValueType, optional_part, path_text, type_at

_EXAMPLES = {Kind.LIST: ", such as ${plan.data.tasks}", Kind.OBJECT: ', such as { tasks = "${plan.data.tasks}" }'}
_MUST_BE_TEXT = (("agent", "project_dir"), ("wait", "until"))


def template_names_values(context: Context) -> Iterator[Problem]:
    for name, state in context.definition.states.items():
        for key, activity in state.activities.items():
            names = _names_for(context, name)
            for place, template in templates_of(activity):
                at = ("states", name, key, *place)
                yield from _template_problems(context, template, at, name, names)
                if (key, place[0]) in _MUST_BE_TEXT:
                    yield from _problems_unless(Kind.TEXT, template, at, names)
            if isinstance(activity, Agent) and activity.each is not None:
                at = ("states", name, key, "each")
                for text_place, template in texts_in(activity.each, at):
                    yield from _template_problems(context, template, text_place, name, context.types)
                if isinstance(activity.each, str):
                    yield from _problems_unless(Kind.LIST, activity.each, at, context.types)
        if state.error is not None:
            yield from _template_problems(context, state.error, ("states", name, "error"), name, context.types)
    if (result := context.definition.result) is not None:
        for place, template in (*texts_in(result.text, ("result", "text")), *texts_in(result.data, ("result", "data"))):
            yield from _template_problems(context, template, place, None, context.types)
        yield from _data_problems(result.data, context.types)


def _data_problems(data: object, names: NameTypes) -> Iterator[Problem]:
    """Yield a problem if the data of the run's result cannot be an object."""
    place = ("result", "data")
    if isinstance(data, str):
        yield from _problems_unless(Kind.OBJECT, data, place, names, or_null=True)
    elif data is not None and not isinstance(data, dict):
        yield Problem(place, f"is of the type {type_name(data)}; it must be {Kind.OBJECT}{_EXAMPLES[Kind.OBJECT]}")


def literal_contains_no_template(context: Context) -> Iterator[Problem]:
    for name, state in context.definition.states.items():
        place = ("states", name)
        if state.command is not None and "${" in state.command.run[0]:
            message = "the program is literal: name it, and let its arguments contain the values"
            yield Problem((*place, "command", "run", 0), message)
        if state.agent is not None and "${" in (state.agent.name or ""):
            yield Problem((*place, "agent", "name"), "the name of an agent is literal: use a state for each agent")


def guard_is_an_expression(context: Context) -> Iterator[Problem]:
    for name in context.definition.states:
        for edge in (*context.graph.edges[name], *context.graph.exhausted.get(name, ())):
            if edge.branch.when is not None:
                yield from _guard_problems(context, edge, edge.branch.when)


def _guard_problems(context: Context, edge: Edge, text: str) -> Iterator[Problem]:
    place = (*edge.place, "when")
    try:
        guard = compile_guard(text, context.types)
    except ExpressionError as error:
        yield Problem(place, f"column {error.column}: {error}")
        return
    context.uses += [Use(path, place, None, edge) for path, _ in guard.paths]


def _names_for(context: Context, name: str) -> NameTypes:
    """Return the names for the arguments of a state's activity."""
    state = context.definition.states[name]
    if state.agent is None or state.agent.each is None:
        return context.types
    return {**context.types, "item": element_type(state, context.types), "index": ValueType(Kind.INTEGER)}


def _template_problems(
    context: Context, template: str, place: Path, state: str | None, names: NameTypes
) -> Iterator[Problem]:
    try:
        parts = parts_of(template)
    except TemplateError as error:
        yield Problem(place, str(error))
        return
    for part in dict.fromkeys(parts):
        if isinstance(part, Reference):
            if message := _path_defect(part, names):
                yield Problem(place, f"${{{part}}}: {message}")
            else:
                context.uses.append(Use(part.path, place, state, None))


def _path_defect(reference: Reference, names: NameTypes) -> str | None:
    if reference.name in ITEM_NAMES and reference.name not in names:
        return f"{reference.name} only exists in the arguments of an agent with `each`"
    try:
        type_at(names, reference.path)
    except UnknownPath as unknown:
        remedy = "; declare it in `params`" if reference.name == "params" and unknown.step == 1 else ""
        return f"{unknown}{remedy}"
    if (part := optional_part(names, reference.path)) is not None:
        remedy = "add it to `required` in the schema; an empty text or null can mean that there is none"
        return f"{path_text(part)} is optional: {remedy}"
    return None


def _problems_unless(
    kind: Kind, template: str, place: Path, names: NameTypes, *, or_null: bool = False
) -> Iterator[Problem]:
    """Yield a problem if the value of a template cannot be of a kind. A template with text around is a text."""
    try:
        parts = parts_of(template)
        if len(parts) == 1 and isinstance(parts[0], Reference):
            found = type_at(names, parts[0].path)
        else:
            found = ValueType(Kind.TEXT)
    except (TemplateError, UnknownPath):
        return  # reported already
    if found.kind not in (kind, Kind.ANY) and not (or_null and found.kind is Kind.NULL):
        yield Problem(place, f"{quoted(template)} is {found.kind}; it must be {kind}{_EXAMPLES.get(kind, '')}")
