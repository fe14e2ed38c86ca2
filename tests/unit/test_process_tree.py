import pytest

from fsm_runner.process.tree.process_tree import TREE_TAG_VARIABLE, ProcessTree, own_tree_tag
from fsm_runner.process.tree.procfs import Process


def process(pid: int, *, group: int = 7, session: int = 7, started_ticks: int = 100) -> Process:
    return Process(pid=pid, state="S", parent=1, group=group, session=session, started_ticks=started_ticks)


def test_each_tree_has_a_mark_of_its_own() -> None:
    assert len({ProcessTree().mark for _ in range(100)}) == 100


def test_the_environment_is_left_as_it_is_but_for_the_mark() -> None:
    tree, environment = ProcessTree(), {"A": "1"}
    assert tree.marked(environment) == {"A": "1", TREE_TAG_VARIABLE: tree.mark}
    assert environment == {"A": "1"}


def test_a_runner_inside_a_run_keeps_the_marks_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TREE_TAG_VARIABLE, "outer.1")
    tree = ProcessTree()
    assert tree.marked({})[TREE_TAG_VARIABLE] == f"outer.1,{tree.mark}"


def test_the_own_mark_is_found_among_those_of_others() -> None:
    tree = ProcessTree()
    for marks in (tree.mark, f"outer.1,{tree.mark}", f"{tree.mark},inner.1"):
        assert own_tree_tag([b"A=1", f"{TREE_TAG_VARIABLE}={marks}".encode()]) == tree.mark


@pytest.mark.parametrize(
    "environment",
    [[], [b"A=1"], [f"{TREE_TAG_VARIABLE}=".encode()], [f"{TREE_TAG_VARIABLE}=other.1,\xff".encode("latin-1")]],
)
def test_the_marks_of_others_are_none(environment: list[bytes]) -> None:
    assert own_tree_tag(environment) is None


def test_the_leaders_session_and_group_are_of_the_tree() -> None:
    tree = ProcessTree()
    tree.leader = 50
    assert tree.has(process(51, group=50))
    assert tree.has(process(52, session=50))
    assert not tree.has(process(53))


def test_a_tree_that_is_not_started_has_nobody() -> None:
    assert not ProcessTree().has(process(51, group=0, session=0))


def test_a_member_is_told_by_its_start_also_where_its_id_was_given_away() -> None:
    tree = ProcessTree()
    tree.add(process(60))
    assert tree.has(process(60, session=9))
    assert not tree.has(process(60, session=9, started_ticks=101))


def test_a_members_session_counts_only_while_the_tree_ends() -> None:
    tree = ProcessTree()
    tree.add(process(60, session=60))
    assert not tree.has(process(61, session=60))
    tree.has_ended = True
    tree.add(process(60, session=60))
    assert tree.has(process(61, session=60))
