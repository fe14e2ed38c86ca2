"""The usage of visits, as the journal keeps it."""

import msgspec

from fsm_runner.reporting.executor_status import Usage
from fsm_runner.runtime.workflow.usage import VisitUsage, children_of


def test_children_are_counted_beside_the_usage_of_turns() -> None:
    usages = [msgspec.json.encode(usage) for usage in (Usage(turns=3), VisitUsage(children=2), VisitUsage(children=0))]
    found = children_of([*usages, OF_ANOTHER_VERSION, msgspec.json.encode(VisitUsage(children=4))])
    assert sum(usage.children or 0 for usage in found) == 6


OF_ANOTHER_VERSION = b'{"children": "many"}'


def test_the_text_is_for_people() -> None:
    texts = [str(VisitUsage(children=count)) for count in (0, 1, 2)]
    assert texts == ["0 children", "1 child", "2 children"]
    assert str(VisitUsage(turns=2)) == str(Usage(turns=2))
