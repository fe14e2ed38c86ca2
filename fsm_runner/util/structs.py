"""Operations on msgspec structs."""

from typing import TypeVar

import msgspec

Form = TypeVar("Form", bound=msgspec.Struct)


def with_defaults(own: Form, defaults: Form) -> Form:
    """Return `own`, in which each field that is None has the value of `defaults`."""
    given = {name: value for name, value in msgspec.structs.asdict(own).items() if value is not None}
    return msgspec.structs.replace(defaults, **given)
