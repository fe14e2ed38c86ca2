"""The mark that is a resource limit."""

import os
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.process.tree.rlimit_tag import rlimit_tag, rlimit_tag_of, tag_prefix, tag_prefix_of, with_rlimit_tag

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the limit")

trees = st.integers(min_value=0, max_value=2**31 - 1)


@given(st.text(), trees)
def test_it_tells_whose_it_is(owner: str, tree: int) -> None:
    value = rlimit_tag(owner, tree)
    assert tag_prefix_of(value) == tag_prefix(owner)
    assert value < 2**63


@given(st.text(), trees, trees)
def test_each_tree_has_its_own(owner: str, one: int, other: int) -> None:
    assert (rlimit_tag(owner, one) == rlimit_tag(owner, other)) is (one == other)


def test_a_child_has_it_whatever_becomes_of_its_environment_and_we_do_not() -> None:
    before = resource.getrlimit(resource.RLIMIT_RTTIME)
    value = rlimit_tag("owner", 1)
    with with_rlimit_tag(value):
        child = subprocess.Popen(["env", "-i", "sh", "-c", "read line"], stdin=subprocess.PIPE)
    with child:
        assert rlimit_tag_of(child.pid) == value
    assert resource.getrlimit(resource.RLIMIT_RTTIME) == before
    assert rlimit_tag_of(os.getpid()) is None


def test_a_process_that_is_gone_has_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert rlimit_tag_of(child.pid) is None
