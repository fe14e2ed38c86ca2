"""The tag that is a resource limit."""

import os
import resource
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.process.tree.rlimit_tag import rlimit_tag, rlimit_tag_of, tag_prefix, tag_prefix_of, with_rlimit_tag

pytestmark = pytest.mark.linux(reason="the resource limit that serves as a tag")

trees = st.integers(min_value=0, max_value=2**31 - 1)


@given(st.text(), trees)
def test_the_prefix_identifies_the_runner(runner: str, tree: int) -> None:
    value = rlimit_tag(runner, tree)
    assert tag_prefix_of(value) == tag_prefix(runner)
    assert value < 2**63


@given(st.text(), trees, trees)
def test_each_tree_has_its_own_tag(runner: str, one: int, other: int) -> None:
    assert (rlimit_tag(runner, one) == rlimit_tag(runner, other)) is (one == other)


def test_a_child_keeps_the_tag_without_environment_and_this_process_has_none() -> None:
    before = resource.getrlimit(resource.RLIMIT_RTTIME)
    value = rlimit_tag("runner", 1)
    with with_rlimit_tag(value):
        child = subprocess.Popen(["env", "-i", "sh", "-c", "read line"], stdin=subprocess.PIPE)
    with child:
        assert rlimit_tag_of(child.pid) == value
    assert resource.getrlimit(resource.RLIMIT_RTTIME) == before
    assert rlimit_tag_of(os.getpid()) is None


def test_an_ended_process_has_no_tag() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert rlimit_tag_of(child.pid) is None
