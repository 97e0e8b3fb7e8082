"""The id of an upload session holds for what was signed, and for nothing else."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enseada.protocols.oci import session
from enseada.protocols.oci.session import NONCE_BYTES, Session, verify

SECRET = b"0123456789abcdef0123456789abcdef"
ALPHABET = string.ascii_letters + string.digits + "-_"
EXAMPLE = Session("team/api", 1_700_000_000, "sha256", bytes(range(NONCE_BYTES)))

sessions = st.builds(
    Session,
    name=st.from_regex(r"[a-z0-9]+(/[a-z0-9]+)?", fullmatch=True),
    created=st.integers(0, 2**32 - 1),
    algorithm=st.sampled_from(["sha256", "sha512"]),
    nonce=st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES),
)


@given(sessions, st.binary(min_size=1))
def test_what_was_signed_is_verified(signed: Session, secret: bytes) -> None:
    text = signed.sign(secret)
    assert verify(text, signed.name, secret) == signed
    assert text == signed.sign(secret)
    assert re.fullmatch("[A-Za-z0-9_-]{43}", text)  # needs no quoting in a path


def test_every_other_character_at_every_place_is_refused() -> None:
    text = EXAMPLE.sign(SECRET)
    for place, right in enumerate(text):
        for wrong in ALPHABET + "+/=.% \n\0é":
            if wrong != right:
                assert verify(text[:place] + wrong + text[place + 1 :], EXAMPLE.name, SECRET) is None


def test_only_one_text_is_the_session_s_id() -> None:
    """base64 has two alphabets, padding and spare bits."""
    for nonce in range(64):
        signed = Session("a", nonce, "sha512", bytes([0xFB, 0xFF, nonce] * 4))
        text = signed.sign(SECRET)
        assert "-" in text or "_" in text
        for other in (text.replace("-", "+"), text.replace("_", "/"), text + "=", text + "==", text + "\n", " " + text):
            assert verify(other, "a", SECRET) == (signed if other == text else None)
        assert [last for last in ALPHABET if verify(text[:-1] + last, "a", SECRET)] == [text[-1]]


@given(sessions, st.data())
def test_cut_or_lengthened_is_refused(signed: Session, data: st.DataObject) -> None:
    text = signed.sign(SECRET)
    place = data.draw(st.integers(0, len(text) - 1))
    assert verify(text[:place], signed.name, SECRET) is None
    assert verify(text[place + 1 :], signed.name, SECRET) is None
    more = data.draw(st.text(ALPHABET, min_size=1))
    assert verify(text + more, signed.name, SECRET) is None
    assert verify(more + text, signed.name, SECRET) is None


@given(sessions, st.text())
@example(EXAMPLE, "team")
@example(EXAMPLE, "team/api/")
@example(EXAMPLE, "team/api2")
@example(EXAMPLE, "")
def test_another_name_is_refused(signed: Session, name: str) -> None:
    assert (verify(signed.sign(SECRET), name, SECRET) is not None) == (name == signed.name)


@given(sessions, st.binary())
@example(EXAMPLE, SECRET[:-1])
@example(EXAMPLE, SECRET + b"x")
@example(EXAMPLE, b"")
def test_another_secret_is_refused(signed: Session, secret: bytes) -> None:
    assert (verify(signed.sign(SECRET), signed.name, secret) is not None) == (secret == SECRET)


@settings(max_examples=300)
@given(st.text() | st.text(ALPHABET, min_size=40, max_size=46) | st.text(ALPHABET + "+/=\n", max_size=90), st.text())
@example("", "")
@example("=", "a")
@example("A" * 43, "a")
@example("____" * 10 + "___", "a")
@example("A" * 1_000_000, "a")
@example("é" * 43, "a")
def test_any_other_text_is_no_session_and_never_raises(text: str, name: str) -> None:
    assert verify(text, name, SECRET) is None


def test_an_algorithm_that_is_not_known_is_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later release may know more of them, and share the secret with this one."""
    with monkeypatch.context() as later:
        later.setattr(session, "_ALGORITHMS", ("sha256", "sha512", "blake3"))
        text = Session("a", 0, "blake3", bytes(NONCE_BYTES)).sign(SECRET)
        assert verify(text, "a", SECRET) is not None
    assert verify(text, "a", SECRET) is None


@pytest.mark.parametrize(
    ("created", "period"),
    [
        (0, "1970-01"),
        (951_782_399, "2000-02"),  # 2000-02-28T23:59:59Z
        (951_868_799, "2000-02"),  # 2000-02-29T23:59:59Z
        (951_868_800, "2000-03"),
        (1_704_067_199, "2023-12"),
        (1_704_067_200, "2024-01"),
        (2**32 - 1, "2106-02"),
    ],
)
def test_the_document_s_id_carries_the_month_in_utc(created: int, period: str) -> None:
    signed = Session("a", created, "sha256", b"\xab" * NONCE_BYTES)
    assert signed.document_id == f"upload:{period}:{'ab' * NONCE_BYTES}"


@given(sessions, sessions)
def test_documents_ids_differ_where_sessions_began_in_other_months_or_with_other_nonces(
    one: Session, other: Session
) -> None:
    same = (one.nonce, one.document_id[:14]) == (other.nonce, other.document_id[:14])
    assert (one.document_id == other.document_id) == same
