"""The assignment of processes to trees."""

import pytest

from fsm_runner.process.tree.process_tree import TREE_TAG_VARIABLE, ProcessTree, own_tree_tag
from fsm_runner.process.tree.procfs import Process


def process(pid: int, *, group: int = 7, session: int = 7, started_ticks: int = 100) -> Process:
    return Process(pid=pid, state="S", parent=1, group=group, session=session, started_ticks=started_ticks)


def test_each_tree_has_its_own_tag() -> None:
    assert len({ProcessTree().tag for _ in range(100)}) == 100


def test_only_the_tag_is_added_to_the_environment() -> None:
    tree, environment = ProcessTree(), {"A": "1"}
    assert tree.tagged(environment) == {"A": "1", TREE_TAG_VARIABLE: tree.tag}
    assert environment == {"A": "1"}


def test_a_runner_inside_a_run_keeps_the_tags_of_the_outer_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TREE_TAG_VARIABLE, "outer.1")
    tree = ProcessTree()
    assert tree.tagged({})[TREE_TAG_VARIABLE] == f"outer.1,{tree.tag}"


def test_the_own_tag_is_found_among_those_of_others() -> None:
    tree = ProcessTree()
    for tags in (tree.tag, f"outer.1,{tree.tag}", f"{tree.tag},inner.1"):
        assert own_tree_tag([b"A=1", f"{TREE_TAG_VARIABLE}={tags}".encode()]) == tree.tag


@pytest.mark.parametrize(
    "environment",
    [[], [b"A=1"], [f"{TREE_TAG_VARIABLE}=".encode()], [f"{TREE_TAG_VARIABLE}=other.1,\xff".encode("latin-1")]],
)
def test_tags_of_others_do_not_count(environment: list[bytes]) -> None:
    assert own_tree_tag(environment) is None


def test_the_leaders_session_and_group_belong_to_the_tree() -> None:
    tree = ProcessTree()
    tree.leader = 50
    assert tree.has(process(51, group=50))
    assert tree.has(process(52, session=50))
    assert not tree.has(process(53))


def test_a_tree_that_is_not_started_has_no_processes() -> None:
    assert not ProcessTree().has(process(51, group=0, session=0))


def test_a_process_that_reuses_a_members_id_is_no_member() -> None:
    tree = ProcessTree()
    tree.add(process(60))
    assert tree.has(process(60, session=9))
    assert not tree.has(process(60, session=9, started_ticks=101))


def test_a_members_session_counts_only_after_the_leaders_exit() -> None:
    tree = ProcessTree()
    tree.add(process(60, session=60))
    assert not tree.has(process(61, session=60))
    tree.has_ended = True
    tree.add(process(60, session=60))
    assert tree.has(process(61, session=60))
