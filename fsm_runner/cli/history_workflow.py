"""The part of `fsm-runner history RUN` about the run's workflow."""

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from fsm_runner.cli.output import Row, show, show_json, show_table
from fsm_runner.cli.times import shown_duration, shown_time
from fsm_runner.journal.reader import Reader, WorkflowLife, seconds_between
from fsm_runner.journal.records import VisitRecord
from fsm_runner.protocol.event_clock import utc_at
from fsm_runner.runtime.workflow.usage import VisitUsage
from fsm_runner.util.error_text import headline
from fsm_runner.util.text import excerpt

INDENT = "  "
HASH_DIGITS = 12
VALUE_CHARS = 80
"""`--json` has the complete values."""
DECODED_BYTES = 256 * 1024
"""A longer value is shown as it begins, without a look at its fields. The value of an approval is never longer."""
VISIT_COLUMNS = ("VISIT", "STATE", "BEGAN", "TOOK", "ENDING", "USED", "VALUE")


class WorkflowLine(msgspec.Struct, frozen=True, kw_only=True, tag="workflow"):
    """A line of `--json`."""

    journal: str
    run_id: str
    began_at: str
    name: str
    path: str
    sha256: str
    text: str
    schemas: msgspec.Raw
    parameters: msgspec.Raw
    rerun_of: str | None
    rerun_from: str | None
    initial_values: msgspec.Raw | None


class VisitLine(msgspec.Struct, frozen=True, kw_only=True, tag="visit"):
    """A line of `--json`."""

    journal: str
    run_id: str
    number: int
    state: str
    began_at: str
    due_at: str | None
    interruptions: int
    ended_at: str | None
    lasted_s: float | None
    ending: str | None
    target: str | None
    value_name: str | None
    value: msgspec.Raw | None
    usage: msgspec.Raw | None


def show_workflow(reader: Reader, run_id: str) -> None:
    """Print the workflow of a run as an indented table, with a line for each visit; nothing if it has none."""
    for life in reader.workflow_of(run_id):
        show(f"{INDENT}{_title(life)}\n")
        show_table(VISIT_COLUMNS, _rows(reader.visits_of(run_id)), indent=INDENT)
        show()


def show_workflow_json(reader: Reader, run_id: str) -> None:
    """Print everything about the workflow of a run: itself, its steps and its visits, each as a line of JSON."""
    for life in reader.workflow_of(run_id):
        show_json(_workflow_line(reader.journal, run_id, life))
        for step in reader.steps_of_workflow(run_id):
            show_json(step)
        for visit in reader.visits_of(run_id):
            show_json(_visit_line(reader.journal, run_id, visit))


def _title(life: WorkflowLife) -> str:
    record = life.record
    title = f"workflow {record.name}  sha256 {record.sha256[:HASH_DIGITS]}  {excerpt(record.path)}"
    return title if record.rerun_of is None else f"{title}  repeats {record.rerun_of} from {record.rerun_from}"


def _rows(visits: Iterable[VisitRecord]) -> Iterator[Row]:
    counts: Counter[str] = Counter()
    for visit in visits:
        counts[visit.state] += 1
        lasted_s = None if visit.ended_at is None else seconds_between(visit.began_at, visit.ended_at)
        yield (
            str(visit.number),
            visit.state if counts[visit.state] == 1 else f"{visit.state} ({counts[visit.state]})",
            shown_time(visit.began_at),
            shown_duration(lasted_s, visit.began_at),
            _ending(visit),
            _used(visit.usage),
            _value(visit.value),
        )


def _ending(visit: VisitRecord) -> str:
    if visit.ending is None:
        parts = ["open" if visit.due_s is None else f"open until {_due_at(visit.due_s)}"]
    else:
        parts = [visit.ending if visit.target is None else f"{visit.ending} → {visit.target}"]
    fields = _fields(visit.value)
    if (by := fields.get("by")) is not None:
        decided_at = fields.get("at") or shown_time(visit.ended_at or "")  # the end: an earlier version wrote no time
        parts.append(f"by {by} at {decided_at}")
    if visit.interruptions > 0:
        parts.append("interrupted" if visit.interruptions == 1 else f"interrupted {visit.interruptions} times")
    return excerpt(", ".join(parts), 2 * VALUE_CHARS)


def _used(usage: bytes | None) -> str:
    if usage is None:
        return ""
    try:
        return str(msgspec.json.decode(usage, type=VisitUsage))
    except msgspec.MsgspecError:
        return _beginning(usage)


def _value(value: bytes | None) -> str:
    """Return the error of a value, or else its other fields, on one line."""
    if value is None:
        return ""
    fields = _fields(value)
    if not fields:
        return _beginning(value)
    if fields.get("error"):
        return excerpt(headline(str(fields["error"])), VALUE_CHARS)
    shown = {name: content for name, content in fields.items() if name not in ("ok", "error")}
    return _beginning(msgspec.json.encode(shown)) if shown else ""


def _fields(value: bytes | None) -> dict[str, object]:
    """Return the fields of a value; none if it is too long."""
    if value is None or len(value) > DECODED_BYTES:
        return {}
    try:
        return msgspec.json.decode(value, type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError):
        return {}


def _beginning(document: bytes) -> str:
    return excerpt(document[: 4 * VALUE_CHARS].decode("utf-8", "replace"), VALUE_CHARS)


def _due_at(due_s: float) -> str:
    """Return a time to the second; the number itself if no calendar has it."""
    try:
        return utc_at(due_s)
    except (OverflowError, ValueError, OSError):
        return f"{due_s:g} s"


def _raw(document: bytes | None) -> msgspec.Raw | None:
    return None if document is None else msgspec.Raw(document)


def _workflow_line(journal: str, run_id: str, life: WorkflowLife) -> WorkflowLine:
    record = life.record
    return WorkflowLine(
        journal=journal,
        run_id=run_id,
        began_at=life.began_at,
        name=record.name,
        path=record.path,
        sha256=record.sha256,
        text=record.text,
        schemas=msgspec.Raw(record.schemas),
        parameters=msgspec.Raw(record.parameters),
        rerun_of=record.rerun_of,
        rerun_from=record.rerun_from,
        initial_values=_raw(record.initial_values),
    )


def _visit_line(journal: str, run_id: str, visit: VisitRecord) -> VisitLine:
    return VisitLine(
        journal=journal,
        run_id=run_id,
        number=visit.number,
        state=visit.state,
        began_at=visit.began_at,
        due_at=None if visit.due_s is None else _due_at(visit.due_s),
        interruptions=visit.interruptions,
        ended_at=visit.ended_at,
        lasted_s=None if visit.ended_at is None else seconds_between(visit.began_at, visit.ended_at),
        ending=visit.ending,
        target=visit.target,
        value_name=visit.value_name,
        value=_raw(visit.value),
        usage=_raw(visit.usage),
    )
