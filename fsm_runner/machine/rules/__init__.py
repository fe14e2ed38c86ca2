"""The rules of a sound machine, one function each, by their subject."""

from fsm_runner.machine.rules import answers, interface, names, paths, states
from fsm_runner.machine.rules.case import Case, Rule

__all__ = ["RULES", "Case", "Rule"]

RULES: tuple[Rule, ...] = (*names.RULES, *states.RULES, *paths.RULES, *answers.RULES, *interface.RULES)
