"""The mark that is a resource limit."""

import os
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.process.tree.rlimit_tag import owner_part, owner_part_of, watermark, watermark_of, watermarked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the limit")

trees = st.integers(min_value=0, max_value=2**31 - 1)


@given(st.text(), trees)
def test_it_tells_whose_it_is(owner: str, tree: int) -> None:
    value = watermark(owner, tree)
    assert owner_part_of(value) == owner_part(owner)
    assert value < 2**63


@given(st.text(), trees, trees)
def test_each_tree_has_its_own(owner: str, one: int, other: int) -> None:
    assert (watermark(owner, one) == watermark(owner, other)) is (one == other)


def test_a_child_has_it_whatever_becomes_of_its_environment_and_we_do_not() -> None:
    before = resource.getrlimit(resource.RLIMIT_RTTIME)
    value = watermark("owner", 1)
    with watermarked(value):
        child = subprocess.Popen(["env", "-i", "sh", "-c", "read line"], stdin=subprocess.PIPE)
    with child:
        assert watermark_of(child.pid) == value
    assert resource.getrlimit(resource.RLIMIT_RTTIME) == before
    assert watermark_of(os.getpid()) is None


def test_a_process_that_is_gone_has_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert watermark_of(child.pid) is None
