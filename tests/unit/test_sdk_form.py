"""The SDK runs on any Python from 3.10 without other packages."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fsm_executor

PACKAGE = Path(fsm_executor.__file__).parent
OLDEST = (3, 10)
NEWER = {"tomllib", "asyncio.timeout", "asyncio.TaskGroup", "asyncio.Runner", "datetime.UTC", "enum.StrEnum"}
"""Additions to the standard library in 3.11 that are easily used by mistake."""


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("module", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_a_module_needs_only_the_standard_library_of_the_oldest_python(module: Path) -> None:
    tree = ast.parse(module.read_text(), feature_version=OLDEST)
    names = set(imported(tree))
    assert not names & NEWER
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported(node):
                assert name.split(".")[0] in {*sys.stdlib_module_names, "fsm_executor"}, name


def test_all_exported_names_exist() -> None:
    for name in fsm_executor.__all__:
        assert getattr(fsm_executor, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fsm_executor.nothing  # noqa: B018
