"""The rules of a sound machine. Each module has the rules about one subject."""

from fsm_runner.machine.rules import answers, interface, names, states  # noqa: F401 - each registers its rules
from fsm_runner.machine.rules.context import RULES, Rule, RuleContext

__all__ = ["RULES", "Rule", "RuleContext"]
