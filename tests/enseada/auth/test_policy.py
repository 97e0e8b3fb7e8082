"""The one question, and what scopes mean in its terms."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enseada.auth import docker_scopes
from enseada.auth.policy import ANONYMOUS, CATALOG, Action, Authorizer, Grant, Subject, image
from enseada.protocols.oci.scopes import Access, catalog, repository

ADMIN = Subject("admin", "user", admin=True)
ANN = Subject("ann", "user")
IMAGE = image("team/api/base")
PUSHED = {Action.READ, Action.WRITE, Action.OVERWRITE, Action.DELETE}


@pytest.mark.parametrize(
    ("anonymous", "on_images", "on_catalog"),
    [("none", set(), set()), ("pull", {Action.READ}, set()), ("push", PUSHED, PUSHED)],
)
@pytest.mark.parametrize("subject", [ANONYMOUS, ANN])
def test_what_anybody_may(
    anonymous: Literal["none", "pull", "push"], on_images: set[Action], on_catalog: set[Action], subject: Subject
) -> None:
    authorizer = Authorizer(anonymous)
    assert {action for action in Action if authorizer.decide(subject, action, IMAGE)} == on_images
    assert {action for action in Action if authorizer.decide(subject, action, CATALOG)} == on_catalog
    assert not any(authorizer.decide(subject, action, "user:ann") for action in Action)


def test_an_admin_may_everything() -> None:
    for action in Action:
        for object in (IMAGE, CATALOG, "user:ann"):
            assert Authorizer().decide(ADMIN, action, object).allowed


def test_a_refusal_names_action_object_and_what_was_missing() -> None:
    decision = Authorizer("pull").decide(ANONYMOUS, Action.WRITE, IMAGE)
    assert decision.reason == "write on oci:team/api/base is not allowed without logging in"
    assert not decision.scope_missing
    decision = Authorizer().decide(ANN, Action.DELETE, IMAGE)
    assert decision.reason == "ann lacks the right to delete oci:team/api/base"
    assert not decision.scope_missing


def test_a_token_narrows_and_never_widens() -> None:
    read = Grant(IMAGE, frozenset({Action.READ}))
    narrowed = Subject("admin", "user", admin=True, scopes=(read,))
    authorizer = Authorizer()
    assert authorizer.decide(narrowed, Action.READ, IMAGE)
    decision = authorizer.decide(narrowed, Action.WRITE, IMAGE)
    assert not decision
    assert decision.scope_missing
    assert decision.reason == "the token's scopes lack write on oci:team/api/base"
    assert not authorizer.decide(narrowed, Action.READ, image("team/api"))
    assert authorizer.decide(narrowed.unscoped(), Action.READ, image("team/api"))
    assert not authorizer.decide(Subject("ann", "user", scopes=(read,)), Action.READ, IMAGE)
    assert not authorizer.decide(Subject("ann", "user", scopes=(read,)), Action.READ, IMAGE).scope_missing


def test_a_token_of_nobody_narrows_nobody() -> None:
    nobody = Subject("anonymous", "anonymous", scopes=())
    assert Authorizer("pull").decide(nobody, Action.READ, IMAGE).scope_missing
    assert Authorizer("pull").decide(nobody.unscoped(), Action.READ, IMAGE)


@pytest.mark.parametrize(
    ("asked", "anonymous", "subject", "left"),
    [
        (repository("a", "pull", "push"), "none", ADMIN, "repository:a:pull,push"),
        (repository("a", "*"), "none", ADMIN, "repository:a:*"),
        (repository("a", "pull", "push"), "none", ANN, None),
        (repository("a", "pull", "push"), "pull", ANN, "repository:a:pull"),
        (repository("a", "pull", "push", "delete"), "push", ANONYMOUS, "repository:a:pull,push,delete"),
        (repository("a", "*"), "pull", ANONYMOUS, "repository:a:pull"),
        (repository("a", "*"), "push", ANONYMOUS, "repository:a:pull,push,delete"),
        (catalog(), "none", ADMIN, "registry:catalog:*"),
        (catalog(), "pull", ANONYMOUS, None),
        (catalog(), "push", ANONYMOUS, "registry:catalog:*"),
    ],
)
def test_scopes_are_granted_as_far_as_there_is_a_right(
    asked: Access, anonymous: Literal["none", "pull", "push"], subject: Subject, left: str | None
) -> None:
    granted = docker_scopes.allowed(Authorizer(anonymous), subject, [asked])
    assert [str(access) for access in granted] == ([] if left is None else [left])


ACCESSES = st.lists(
    st.builds(
        lambda name, actions: repository(name, *actions),
        st.sampled_from(["a", "a/b", "c"]),
        st.sets(st.sampled_from(["pull", "push", "delete", "*"]), min_size=1),
    )
    | st.just(catalog())
)


@given(ACCESSES, st.sampled_from(["none", "pull", "push"]), st.sampled_from([ANONYMOUS, ANN, ADMIN]))
def test_a_token_never_allows_what_its_subject_may_not(
    asked: list[Access], anonymous: Literal["none", "pull", "push"], subject: Subject
) -> None:
    authorizer = Authorizer(anonymous)
    left = docker_scopes.allowed(authorizer, subject, asked)
    shown = Subject(subject.name, subject.kind, subject.admin, docker_scopes.grants(left))
    for grant in docker_scopes.grants(left):
        assert any(grant.object == docker_scopes.object_of(access) for access in asked)
        assert any(authorizer.decide(shown, action, grant.object) for action in grant.actions)
    for object in ("oci:a", "oci:a/b", "oci:c", CATALOG):
        for action in Action:
            if authorizer.decide(shown, action, object):
                assert authorizer.decide(subject, action, object)


@given(ACCESSES)
def test_an_admin_is_left_all_that_was_asked_for(asked: list[Access]) -> None:
    wanted = docker_scopes.grants(asked)
    assert docker_scopes.grants(docker_scopes.allowed(Authorizer(), ADMIN, asked)) == wanted
