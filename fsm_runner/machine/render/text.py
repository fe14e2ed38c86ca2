"""The texts of drawings: identifiers, escapes, and values in words."""

import html
import re
from collections.abc import Iterable

from fsm_runner.machine.spec import Retry, State

FAILURE_MARK = "✗"

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_KEYWORD = re.compile(
    # Mermaid, the id of its root, and what every JavaScript object has; Graphviz; PlantUML.
    "accdescr|acctitle|as|class|classdef|click|default|direction|href|note|root|scale|state|style"
    "|constructor|hasownproperty|isprototypeof|propertyisenumerable|tolocalestring|tostring|valueof"
    "|digraph|edge|graph|node|start|strict|subgraph"
    "|down|end|footer|header|hide|json|left|legend|right|skinparam|title|top|up",
    re.IGNORECASE,
)


def identifiers(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return an identifier for each name, distinct from each other and from `taken`.

    It is the name itself if every format accepts that.
    """
    found: dict[str, str] = {}
    used = set(taken)
    for name in dict.fromkeys(names):
        id_ = name if _IDENTIFIER.fullmatch(name) else re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
        if not id_ or id_[0].isdigit() or _KEYWORD.fullmatch(id_):
            id_ = f"s_{id_}"
        while id_ in used:
            id_ += "_"
        used.add(id_)
        found[name] = id_
    return found


_NOT_XML = re.compile("[^ -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLAIN = re.compile(
    # Besides letters and digits: an underscore in a name, and the marks of a label.
    r"[A-Za-z0-9✗ ]+|(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])|(?<= )\[(?=[A-Za-z])|(?<=[A-Za-z0-9])\](?= |$)|(?<= )/(?= )|(.)"
)


def with_entities(text: str, entity: str) -> str:
    """Return a text with `entity`, formatted with its number, for each character that a language could interpret."""
    return _PLAIN.sub(lambda found: entity.format(ord(found[1])) if found[1] else found[0], one_line(text))


def xml_escaped(text: str) -> str:
    """Return the text as XML. U+FFFD replaces each character that XML cannot contain."""
    return html.escape(_NOT_XML.sub("\ufffd", text))


def one_line(text: str) -> str:
    """Return the text without line breaks and control characters; runs of blanks become one."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def duration(limit: float | str) -> str:
    """Return `10 s`, `24 h`, or the name of the setting that holds the limit."""
    if isinstance(limit, str):
        return limit
    for unit, seconds in (("h", 3600), ("min", 60)):
        if limit >= seconds and limit % seconds == 0:
            return f"{limit / seconds:g} {unit}"
    return f"{limit:g} s"


def retries(retry: Retry) -> str:
    times = "1 retry" if retry.times == 1 else f"{retry.times} retries"
    return f"{times}, {duration(retry.base_s)} to {duration(retry.cap_s)} apart"


def limits(state: State) -> str:
    """Return the time limit and the number of retries in a few words: `2 min, 3 retries`."""
    limit = "" if state.timeout_s is None else duration(state.timeout_s)
    again = "" if state.retry is None else retries(state.retry).partition(",")[0]
    return ", ".join(part for part in (limit, again) if part)
