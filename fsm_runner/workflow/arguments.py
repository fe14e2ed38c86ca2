"""The templates in the arguments of an activity."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from fsm_runner.machine.defects import Path
from fsm_runner.util.text import excerpt
from fsm_runner.workflow.definition import Activity, Agent, Approval, Command, State, Turn, Wait
from fsm_runner.workflow.templates import could_be_option, expand, expand_text, texts_in

TEXT_FIELDS: dict[type[Activity], tuple[str, ...]] = {
    Turn: ("prompt",),
    Command: ("stdin",),
    Agent: ("project_dir",),
    Approval: ("question",),
    Wait: ("until",),
}
"""The arguments whose value is always text, beside `run` of a command."""
VALUE_FIELDS: dict[type[Activity], tuple[str, ...]] = {Turn: ("parameters", "config"), Agent: ("parameters",)}
"""The arguments in which a text that consists of one `${…}` keeps the type of the value."""


def templates_of(activity: Activity) -> Iterator[tuple[Path, str]]:
    """Yield the place in the activity and the text of each template, without that of `each`."""
    for name in (*TEXT_FIELDS[type(activity)], *VALUE_FIELDS.get(type(activity), ())):
        yield from texts_in(getattr(activity, name), (name,))
    if isinstance(activity, Command):
        yield from ((("run", index), text) for index, text in enumerate(activity.run) if index > 0)


def expanded(activity: Activity, names: Mapping[str, Any], *, keep: frozenset[str] = frozenset()) -> Activity:
    """Return the activity with its templates expanded, and without `each`. Raises `TemplateError`."""
    changes: dict[str, Any] = {}
    for name in TEXT_FIELDS[type(activity)]:
        if (template := getattr(activity, name)) is not None:
            changes[name] = expand_text(template, names, (name,), keep=keep)
    for name in VALUE_FIELDS.get(type(activity), ()):
        if (template := getattr(activity, name)) is not None:
            changes[name] = expand(template, names, (name,), keep=keep)
    if isinstance(activity, Agent):
        changes["each"] = None
    if isinstance(activity, Command):
        program, *rest = activity.run
        arguments = (expand_text(text, names, ("run", index)) for index, text in enumerate(rest, 1))
        changes["run"] = (program, *arguments)
    return msgspec.structs.replace(activity, **changes)


def option_defect(state: State, activity: Activity) -> str | None:
    """Return why an argument of a state's command could be an option that the author of the workflow has not written.

    `activity`: that of the state, with its templates expanded.
    """
    if state.command is None or not isinstance(activity, Command):
        return None
    for number, (template, argument) in enumerate(zip(state.command.run, activity.run, strict=True)):
        if number > 0 and could_be_option(template, argument):
            return (
                f"argument {number} of `{activity.run[0]}` is {excerpt(argument)!r}: the value of {template} may not "
                "begin with `-`, since the program could take it for an option: write text before it, or pass it "
                "through stdin"
            )
    return None
