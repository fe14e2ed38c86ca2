"""Command-line options of settings, made of their declarations in `config/settings.py`."""

import functools
from collections.abc import Callable
from dataclasses import replace
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

import typer

from fsm_runner.config.settings import SETTINGS, Setting

Flags = dict[str, str | None]
"""The text of each option, by the field of its setting; None: not given."""


def option(name: str, **changes: Any) -> Any:
    """Return the typer option of the setting with this field name. `changes` replace fields of its declaration."""
    return _option(replace(next(setting for setting in SETTINGS if setting.field == name), **changes))


def text_of(value: str | bool | None) -> str | None:
    """Return an option's value as the text that `load_config` takes."""
    return "true" if value is True else value or None


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of all settings. It gets their values as its argument `flags`."""
    settings = [setting for setting in SETTINGS if setting.flags]

    @functools.wraps(command)
    def with_flags(**arguments: Any) -> None:
        flags: Flags = {setting.field: text_of(arguments.pop(setting.field)) for setting in settings}
        command(flags=flags, **arguments)

    own = [each for name, each in signature(command).parameters.items() if name != "flags"]
    parameters = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in (*map(_parameter, settings), *own)]
    # typer reads both.
    with_flags.__signature__ = Signature(parameters)  # type: ignore[attr-defined] # not declared by typeshed
    with_flags.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_flags


def _parameter(setting: Setting) -> Parameter:
    kind, default = (bool, False) if setting.metavar is None else (str | None, None)
    return Parameter(
        setting.field, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, _option(setting)]
    )


def _option(setting: Setting) -> Any:
    default = "" if setting.metavar is None else f" [{setting.default_text}]"
    text = f"{setting.variable}: {setting.help}.{default}"
    return typer.Option(*setting.flags, metavar=setting.metavar, help=text, show_default=False)
