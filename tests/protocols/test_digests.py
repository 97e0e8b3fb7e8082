"""Resumable hashes agree with hashlib wherever they are cut, and digests are read as the specification writes them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enseada.protocols import digests, openssl
from enseada.protocols.digests import DIGEST_BYTES, Digest, hasher, restore

algorithms = st.sampled_from(sorted(DIGEST_BYTES))
kinds = st.sampled_from([bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))])


def expected(algorithm: str, data: bytes) -> str:
    return hashlib.new(algorithm, data).hexdigest()


@pytest.fixture(params=sorted(DIGEST_BYTES))
def algorithm(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def no_openssl(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A platform where the contexts cannot be had."""
    monkeypatch.setattr(openssl, "_KNOWN", (("sha256", "NO_SUCH_SHA256", 4, 8, 64),))
    digests._openssl.cache_clear()
    yield
    digests._openssl.cache_clear()


@settings(max_examples=300, deadline=None)
@given(algorithms, st.lists(st.tuples(st.binary(max_size=400), kinds, st.booleans()), max_size=12))
def test_any_split_saved_and_restored_anywhere(algorithm: str, parts: list[tuple[bytes, Any, bool]]) -> None:
    hash_ = hasher(algorithm)
    whole = b""
    for part, kind, save in parts:
        hash_.update(kind(part))
        whole += part
        assert hash_.hexdigest() == expected(algorithm, whole)
        if save:
            state = hash_.state()
            assert state is not None
            hash_.update(b"what comes after the state was saved is not in it")
            hash_ = restore(state)
            assert hash_.state() == state
        assert hash_.count == len(whole)
        assert hash_.algorithm == algorithm
    assert hash_.digest() == hashlib.new(algorithm, whole).digest()


def test_restored_at_every_length_around_two_blocks(algorithm: str) -> None:
    data = bytes(range(256)) + b"tail"
    for cut in range(257):
        first = hasher(algorithm)
        first.update(data[:cut])
        state = first.state()
        assert state is not None
        second = restore(state)
        second.update(data[cut:])
        assert second.hexdigest() == expected(algorithm, data)


def test_another_process_goes_on() -> None:
    data = bytes(range(256)) * 5
    cases = []
    for number, name in enumerate(sorted(DIGEST_BYTES)):
        for cut in (0, 1, 63, 64, 500 + number):
            hash_ = hasher(name)
            hash_.update(data[:cut])
            state = hash_.state()
            assert state is not None
            cases.append((state, cut, expected(name, data)))
    program = (
        "import ast, sys; from enseada.protocols.digests import restore; data = bytes(range(256)) * 5\n"
        "for state, cut, want in ast.literal_eval(sys.stdin.read()):\n"
        "    hash_ = restore(state); hash_.update(data[cut:]); assert hash_.hexdigest() == want\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], input=repr(cases), text=True, check=True, timeout=30)


def test_a_state_is_the_same_on_every_machine() -> None:
    """Pins the format: a release that reads its predecessor's sessions must keep on reading this."""
    hash_ = hasher("sha256")
    hash_.update(b"a" * 64 + b"bc")
    state = hash_.state()
    assert state is not None
    assert state.startswith(b"enseada-hash-1\nsha256\0\0\x04\x08\x40" + (66).to_bytes(8, "big"))
    assert state.endswith(b"bc")
    assert len(state) == 26 + 8 + 32 + 2
    # FIPS 180-4: with nothing hashed the chaining words are the initial ones.
    empty = hasher("sha256").state()
    assert empty is not None
    assert empty[34:].hex() == "6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"


def test_copies_go_their_own_ways(algorithm: str) -> None:
    for resumable in (True, False):
        first = hasher(algorithm, resumable=resumable)
        first.update(b"common")
        second = first.copy()
        first.update(b"1")
        second.update(b"22")
        assert first.hexdigest() == expected(algorithm, b"common1")
        assert second.hexdigest() == expected(algorithm, b"common22")
        assert (first.count, second.count) == (7, 8)


def test_the_buffer_is_free_after_update() -> None:
    buffer = bytearray(b"x" * 100)
    hash_ = hasher("sha256")
    hash_.update(memoryview(buffer)[10:20])
    buffer[:] = b"\xdd" * 100
    buffer.extend(b"a bytearray that is still lent out cannot grow")
    assert hash_.hexdigest() == expected("sha256", b"x" * 10)


@pytest.mark.parametrize("resumable", [True, False])
def test_counts_bytes_and_not_items(resumable: bool) -> None:
    hash_ = hasher("sha256", resumable=resumable)
    hash_.update(memoryview(bytes(8)).cast("I"))
    assert hash_.count == 8
    assert hash_.hexdigest() == expected("sha256", bytes(8))


@pytest.mark.parametrize("resumable", [True, False])
def test_what_is_no_run_of_bytes_is_refused(resumable: bool) -> None:
    hash_ = hasher("sha256", resumable=resumable)
    with pytest.raises(BufferError):
        hash_.update(memoryview(b"abcdef")[::2])
    with pytest.raises(TypeError):
        hash_.update("text")  # type: ignore[arg-type]
    assert hash_.count == 0
    assert hash_.hexdigest() == expected("sha256", b"")


def test_not_resumable_when_asked(algorithm: str) -> None:
    hash_ = hasher(algorithm, resumable=False)
    hash_.update(b"data")
    assert hash_.state() is None
    assert hash_.hexdigest() == expected(algorithm, b"data")
    assert digests.resumable(algorithm)


@pytest.mark.usefixtures("no_openssl")
def test_without_openssls_contexts_hashlib_does_it(algorithm: str) -> None:
    hash_ = hasher(algorithm)
    hash_.update(b"da")
    hash_.update(memoryview(bytearray(b"ta")))
    assert (hash_.hexdigest(), hash_.count) == (expected(algorithm, b"data"), 4)
    assert hash_.state() is None
    assert not digests.resumable(algorithm)


def test_without_openssls_contexts_a_state_is_refused(request: pytest.FixtureRequest) -> None:
    state = hasher("sha256").state()
    assert state is not None
    request.getfixturevalue("no_openssl")
    with pytest.raises(ValueError, match="cannot load"):
        restore(state)


@pytest.mark.parametrize(
    "known",
    [
        ("sha256", "SHA512", 8, 8, 128),  # another function
        ("sha256", "SHA256", 4, 7, 64),  # fields elsewhere
        ("sha512", "SHA512", 4, 8, 128),  # a context larger than thought
        ("md5", "SHA1", 4, 4, 64),
    ],
)
def test_a_library_that_is_laid_out_otherwise_is_not_used(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "_KNOWN", (known,))
    assert openssl.load() == {}


def test_ctypes_is_loaded_only_for_what_can_be_saved() -> None:
    program = (
        "import sys; from enseada.protocols.digests import hasher, Digest\n"
        "Digest.parse(str(Digest.of(b''))); hasher('sha256', resumable=False).update(b'')\n"
        "assert 'ctypes' not in sys.modules; hasher('sha256'); assert 'ctypes' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)


def saved() -> bytes:
    hash_ = hasher("sha256")
    hash_.update(b"x" * 100)
    state = hash_.state()
    assert state is not None
    return state


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"enseada-hash-1\n",
        saved()[:-1],
        saved() + b"\0",
        saved().replace(b"hash-1", b"hash-2"),
        saved().replace(b"sha256\0\0", b"sha512\0\0"),
        saved().replace(b"sha256\0\0", b"sha3-256"),
        saved().replace(b"sha256\0\0", b"sha256\0x"),
        saved().replace(b"\x04\x08\x40", b"\x04\x08\x80"),
        saved()[:26] + (101).to_bytes(8, "big") + saved()[34:],
        saved()[:26] + (2**61 + 36).to_bytes(8, "big") + saved()[34:],
    ],
)
def test_malformed_states_are_refused(state: bytes) -> None:
    with pytest.raises(ValueError, match="hash"):
        restore(state)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_state_does_harm(data: st.DataObject) -> None:
    """Whatever comes out of a damaged store is refused, or is a hash that works (with another digest)."""
    state = bytearray(saved())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(state) - 1))
        state[at] = data.draw(st.integers(0, 255))
    del state[data.draw(st.integers(0, len(state))) :]
    try:
        hash_ = restore(bytes(state))
    except ValueError:
        return
    before = hash_.count
    hash_.update(b"more" * 100)
    assert hash_.count == before + 400
    assert len(hash_.digest()) == DIGEST_BYTES[hash_.algorithm]


def test_unknown_algorithms_are_refused() -> None:
    with pytest.raises(ValueError, match="sha3"):
        hasher("sha3")


HEX256 = hashlib.sha256(b"").hexdigest()
HEX512 = hashlib.sha512(b"").hexdigest()


@pytest.mark.parametrize(("algorithm", "hexadecimal"), [("sha256", HEX256), ("sha512", HEX512)])
def test_digest_parses_what_it_prints(algorithm: str, hexadecimal: str) -> None:
    digest = Digest.parse(f"{algorithm}:{hexadecimal}")
    assert digest == Digest(algorithm, hexadecimal) == Digest.of(b"", algorithm)
    assert str(digest) == f"{algorithm}:{hexadecimal}"
    assert {digest: 1}[Digest.parse(str(digest))] == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not a digest"),
        ("sha256", "not a digest"),
        ("sha256:", "not a digest"),
        (":" + HEX256, "not a digest"),
        (HEX256, "not a digest"),
        ("SHA256:" + HEX256, "not a digest"),
        ("sha256:" + HEX256.upper(), "64 lower-case"),
        ("sha256:" + HEX256[:-1], "64 lower-case"),
        ("sha256:" + HEX256 + "0", "64 lower-case"),
        ("sha256:" + HEX512, "64 lower-case"),
        ("sha512:" + HEX256, "128 lower-case"),
        ("sha256:" + HEX256[:-1] + "g", "64 lower-case"),
        ("sha256:" + HEX256 + "\n", "not a digest"),
        (" sha256:" + HEX256, "not a digest"),
        ("sha256:" + HEX256[:-1] + "\u0665", "not a digest"),  # a digit, but not of ASCII
        ("sha256:../" + HEX256, "not a digest"),
        ("md5:" + "0" * 32, "'md5' is not supported"),
        ("sha1:" + "0" * 40, "'sha1' is not supported"),
        ("sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564", "not supported"),
        ("sha256++b64u:aa", "not a digest"),
    ],
)
def test_what_is_no_digest_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Digest.parse(text)


def test_a_refusal_does_not_repeat_a_book() -> None:
    with pytest.raises(ValueError, match="not a digest") as caught:
        Digest.parse("x" * 100_000)
    assert len(str(caught.value)) < 400


@given(st.text(max_size=80) | st.from_regex(r"[a-z0-9+._-]{0,8}:[a-zA-Z0-9=_-]{0,70}"))
def test_parse_gives_a_digest_or_a_value_error(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except ValueError:
        return
    assert str(digest) == text


def test_of_takes_only_what_oci_registers() -> None:
    with pytest.raises(ValueError, match="not supported"):
        Digest.of(b"", "md5")
