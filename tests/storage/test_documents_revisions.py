from __future__ import annotations

from enseada.storage.documents.revisions import (
    Edit,
    Kind,
    Revision,
    Tree,
    accept,
    descends,
    echoes,
    leaves,
    living,
    uncontested,
    visible,
)


def _grow(tree: Tree, parent: str | None, by: str, kind: Kind = Kind.PUT) -> Revision:
    made = accept(tree, Edit(parent, kind, by))
    assert made is not None
    return made


def _refused(tree: Tree, parent: str | None, kind: Kind = Kind.PUT) -> bool:
    before = dict(tree)
    refused = accept(tree, Edit(parent, kind, "x")) is None
    return refused and tree == before


def _fork(parent: Tree, *branches: list[tuple[str, Kind]]) -> tuple[Tree, list[Revision]]:
    """Copies of ``parent`` that went on apart, merged; and the first revision of each branch."""
    merged: Tree = {}
    firsts = []
    for branch in branches:
        tree = dict(parent)
        rev = next((leaf.rev for leaf in leaves(tree)), None)
        for number, (by, kind) in enumerate(branch):
            made = _grow(tree, rev, by, kind)
            rev = made.rev
            if number == 0:
                firsts.append(made)
        merged.update(tree)
    return merged, firsts


def test_only_leaves_are_built_on() -> None:
    tree: Tree = {}
    assert _refused(tree, "1-unknown")
    first = _grow(tree, None, "a")
    assert _refused(tree, None)
    second = _grow(tree, first.rev, "b")
    assert _refused(tree, first.rev)
    assert (first.depth, second.depth) == (1, 2)
    assert second.rev.startswith("2-")
    gone = _grow(tree, second.rev, "c", Kind.DELETE)
    assert _refused(tree, second.rev)
    assert _refused(tree, gone.rev, Kind.DELETE)
    assert visible(tree) == []
    again = _grow(tree, None, "d")
    assert (again.depth, again.parent, again.life) == (4, gone.rev, "d")
    assert [leaf.rev for leaf in visible(tree)] == [again.rev]
    assert (first.life, second.life, gone.life) == ("a", "a", "a")


def test_writers_of_the_same_body_make_different_revisions() -> None:
    _, (first, second) = _fork({}, [("a", Kind.PUT)], [("b", Kind.PUT)])
    assert first.rev != second.rev
    _, (first, second) = _fork({}, [("", Kind.PUT)], [("", Kind.PUT)])
    assert first.rev == second.rev


def test_the_winner_lives_then_is_deepest() -> None:
    base: Tree = {}
    _grow(base, None, "a")
    tree, (short, long, dead) = _fork(
        base,
        [("b", Kind.PUT)],
        [("c", Kind.PUT), ("d", Kind.PUT)],
        [("e", Kind.PUT), ("f", Kind.PUT), ("g", Kind.DELETE)],
    )
    ends = leaves(tree)
    assert [leaf.by for leaf in ends] == ["d", "b", "g"]
    assert visible(tree) == ends[:2]
    assert descends(tree, ends[0], {long.rev})
    assert not descends(tree, ends[0], {short.rev, dead.rev})
    assert descends(tree, ends[0], {None})


def test_unsealed_is_alive_but_not_seen() -> None:
    tree: Tree = {}
    unsealed = _grow(tree, None, "a", Kind.UNSEALED)
    assert living(tree) == [unsealed]
    assert visible(tree) == []
    sealed = _grow(tree, unsealed.rev, "b")
    assert visible(tree) == [sealed]


def test_a_rival_that_may_have_been_acknowledged_contests() -> None:
    base: Tree = {}
    _grow(base, None, "a")
    for rival, expected in [
        ([("x", Kind.PUT)], False),
        ([("x", Kind.PUT), ("x", Kind.WITHDRAW)], True),
        ([("x", Kind.PUT), ("", Kind.RESOLVE)], False),
        ([("x", Kind.PUT), ("y", Kind.DELETE)], False),
        ([("x", Kind.PUT), ("y", Kind.PUT)], False),
        ([("x", Kind.DELETE)], False),
    ]:
        tree, (own, _) = _fork(base, [("own", Kind.PUT)], rival)
        assert uncontested(tree, [own]) is expected, rival
    tree, (own,) = _fork(base, [("own", Kind.PUT)])
    assert uncontested(tree, [own])


def test_a_creation_that_landed_twice_has_an_echo() -> None:
    # One copy has a tombstone that the others never saw: the same creation makes another revision there.
    behind: Tree = {}
    stray = _grow(behind, None, "stray")
    tombstone = _grow(behind, stray.rev, "stray", Kind.WITHDRAW)
    echo = _grow(behind, None, "a")
    tree: Tree = {}
    first = _grow(tree, None, "a")
    assert echo.rev != first.rev
    assert visible({**tree, **behind}) == [echo, first]  # Nobody knows yet which it will be.
    second = _grow(tree, first.rev, "b")
    both = {**tree, **behind}
    assert visible(both) == [second]
    assert echoes(both) == [echo]
    _grow(tree, second.rev, "c", Kind.DELETE)
    both = {**tree, **behind}
    assert visible(both) == []
    assert echoes(both) == [echo]
    assert uncontested(both, [first])
    # Where it is the echo that went on, the other is one.
    further = _grow(behind, echo.rev, "d")
    assert visible({first.rev: first, **behind}) == [further]
    # Withdrawn in one place, it is nothing in the other.
    withdrawn: Tree = {}
    first = _grow(withdrawn, None, "a")
    _grow(withdrawn, first.rev, "a", Kind.WITHDRAW)
    del behind[further.rev]
    assert visible({**withdrawn, **behind}) == []
    assert tombstone.rev in behind
