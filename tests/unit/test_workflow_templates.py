"""Templates: what they accept, and the messages of the others."""

from typing import Any

import pytest

from fsm_runner.workflow.templates import TemplateError, expand, parts_of

NAMES: dict[str, Any] = {"plan": {"data": {"tasks": [1, "two"]}, "ok": True}, "params": {"none": None}}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", ""),
        ("plain $ text }", "plain $ text }"),
        ("${plan.data.tasks}", [1, "two"]),
        ("${ plan.ok }", True),
        ("${plan.data.tasks}.", '[1,"two"].'),
        ("$${plan.ok}", "${plan.ok}"),
        ("$$${plan.ok}", "$${plan.ok}"),
        ("$${${plan.ok}", "${true"),
        ("${params.none}", None),
        (7, 7),
        ({"a": ["${plan.ok}", {"b": "x${plan.ok}"}]}, {"a": [True, {"b": "xtrue"}]}),
    ],
)
def test_templates(template: Any, expected: Any) -> None:
    assert expand(template, NAMES) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("${plan", '"${" has no "}" behind it; write "$${" for a literal "${"'),
        ("${}", '"${}" must contain names with dots, as in "${work.result}"; "$${" is a literal "${"'),
        ("${plan.data.tasks[0]}", '"${plan.data.tasks[0]}" must contain names with dots'),
        ("${plane.ok}", '"plane.ok" has no value: nothing has assigned "plane"'),
        ("${plan.data.task}", '"plan.data.task" has no value: "plan.data" has tasks'),
        ("${plan.ok.really}", '"plan.ok.really" has no value: "plan.ok" is not an object'),
    ],
)
def test_a_template_that_cannot_be_expanded(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        expand({"deep": ["", template]}, NAMES, ("turn",))
    assert str(caught.value).startswith(message)
    assert caught.value.at == ("turn", "deep", 1)


def test_texts_that_refer_to_an_item_stay_until_there_is_one() -> None:
    kept = expand({"a": "${item.x} of ${plan.ok}", "b": "${plan.ok}"}, NAMES, keep=frozenset({"item"}))
    assert kept == {"a": "${item.x} of ${plan.ok}", "b": True}


def test_parts_of_a_malformed_template_are_an_error() -> None:
    with pytest.raises(TemplateError):
        parts_of("a ${b c}")
