"""JSON bodies of executors. No more of one is decoded than is looked at: objects take many times the room of text."""

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from fsm_runner.gateway.errors import Refusal
from fsm_runner.protocol.json_text import json_defect
from fsm_runner.protocol.wire import DECODE_FAULTS

Field = msgspec.Raw | UnsetType
"""One as it was written. UNSET: there is none."""
Fields = TypeVar("Fields")

_every_field = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode_fields(body: bytes, decoder: msgspec.json.Decoder[Fields]) -> Fields:
    """The fields that the decoder names. All of the body is checked, but for escapes and numbers out of range.

    `body`: as `RequestBody.read` gives it, in UTF-8. `decoder`: of a Struct or dict of `Raw`. Of a key that comes twice
    the last one counts. Raises a 400 `Refusal`.
    """
    if not body:
        raise Refusal(400, "The body is missing: a JSON object is expected")
    try:
        fields = decoder.decode(body)
    except msgspec.ValidationError:
        raise Refusal(400, "The body is no JSON object") from None
    except DECODE_FAULTS as defect:
        raise Refusal(400, f"The body is no JSON: {json_defect(body, defect)}") from None
    return fields


def every_field(body: bytes) -> dict[str, msgspec.Raw]:
    """For a body that is written anew. Raises a 400 `Refusal`."""
    return decode_fields(body, _every_field)


def text_or_none(field: Field, name: str) -> str | None:
    """None where it is absent or null. Raises a 400 `Refusal`; what is no text is not decoded."""
    if field is UNSET:
        return None
    try:
        return msgspec.json.decode(field, type=str | None)
    except DECODE_FAULTS:
        raise Refusal(400, f"{name}: a text is expected") from None


def text(field: Field, name: str) -> str:
    """Raises a 400 `Refusal` where it is absent or empty too."""
    value = text_or_none(field, name)
    if not value:
        raise Refusal(400, f"{name}: a text is expected that is not empty")
    return value
