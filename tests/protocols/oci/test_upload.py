"""The upload machine against a model that keeps all bytes: hash and offset belong together, whatever happens."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from enseada.http import RegistryError
from enseada.protocols.digests import Digest, hasher, restore
from enseada.protocols.oci.upload import (
    TABLE,
    Input,
    State,
    UploadMachine,
    format_range,
    parse_content_range,
    wrong_place,
)
from tests.protocols.oci.refusals import refused

if TYPE_CHECKING:
    from collections.abc import Callable

ALGORITHMS = ("sha256", "sha512")


def machine(received: bytes = b"", limit: int | None = None) -> UploadMachine:
    hash_ = hasher("sha256")
    hash_.update(received)
    return UploadMachine(hash_, limit)


# What may come in each state; all the rest is refused.
MAY_COME = {
    State.IDLE: {Input.PATCH: State.RECEIVING, Input.PUT: State.CLOSING},
    State.RECEIVING: {Input.DATA: State.RECEIVING, Input.REST: State.IDLE},
    State.CLOSING: {
        Input.DATA: State.CLOSING,
        Input.REST: State.IDLE,
        Input.ACCEPT: State.DONE,
        Input.REFUSE: State.ENDED,
    },
    State.DONE: {},
    State.ENDED: {},
}
DO: dict[Input, Callable[[UploadMachine], object]] = {
    Input.PATCH: lambda upload: upload.begin(Input.PATCH, None, None),
    Input.PUT: lambda upload: upload.begin(Input.PUT, None, None),
    Input.DATA: lambda upload: upload.receive(b"cd"),
    Input.REST: lambda upload: upload.rest(upload.offset),
    Input.ACCEPT: UploadMachine.accept,
    Input.REFUSE: UploadMachine.refuse,
}
WAY: dict[State, list[Input]] = {
    State.IDLE: [],
    State.RECEIVING: [Input.PATCH],
    State.CLOSING: [Input.PUT],
    State.DONE: [Input.PUT, Input.ACCEPT],
    State.ENDED: [Input.PUT, Input.REFUSE],
}


def test_the_table_is_whole() -> None:
    assert MAY_COME.keys() == WAY.keys() == TABLE.keys() == set(State)
    assert DO.keys() == set(Input)


@pytest.mark.parametrize("happens", Input)
@pytest.mark.parametrize("state", State)
def test_every_input_in_every_state(state: State, happens: Input) -> None:
    upload = machine(b"ab")
    for earlier in WAY[state]:
        DO[earlier](upload)
    assert upload.state is state
    if happens in MAY_COME[state]:
        DO[happens](upload)
        assert upload.state is MAY_COME[state][happens]
        return
    ended = state in (State.DONE, State.ENDED)
    with refused(404 if ended else 400, "BLOB_UPLOAD_UNKNOWN" if ended else "BLOB_UPLOAD_INVALID"):
        DO[happens](upload)
    assert upload.state is state
    assert upload.offset == 2
    assert upload.matches(Digest.of(b"ab"))


def test_a_rest_that_is_out_of_place_takes_nothing_back() -> None:
    upload = machine()
    upload.begin(Input.PUT, None, None)
    upload.receive(b"abc")
    upload.accept()
    with refused(404, "BLOB_UPLOAD_UNKNOWN"):
        upload.rest(0)
    assert upload.offset == 3
    assert upload.matches(Digest.of(b"abc"))


@pytest.mark.parametrize(
    ("offset", "text"), [(0, "0-0"), (1, "0-0"), (2, "0-1"), (100, "0-99"), (2**40, "0-1099511627775")]
)
def test_the_range_header_names_the_last_byte(offset: int, text: str) -> None:
    assert format_range(offset) == text


@given(st.integers(0, 10**19 - 1), st.integers(0, 10**19 - 1))
@example(0, 0)
@example(5, 4)
@example(10**19 - 1, 10**19 - 1)
def test_content_range_is_inclusive_on_both_ends(first: int, last: int) -> None:
    forms = [f"{first}-{last}", f"bytes {first}-{last}/*", f"bytes {first}-{last}/{last + 1}", f"bytes={first}-{last}"]
    for text in forms if last < 10**19 - 1 else forms[:2]:
        if last < first:
            with refused(416, "RANGE_INVALID"):
                parse_content_range(text)
        else:
            assert parse_content_range(text) == (first, last + 1)


def test_content_range_may_be_missing() -> None:
    assert parse_content_range(None) is None


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("0-99", (0, 100)),
        ("0-0", (0, 1)),
        (" 3-4\t", (3, 5)),
        ("007-008", (7, 9)),
        ("bytes 0-99/200", (0, 100)),
        ("bytes 0-99/100", (0, 100)),
        ("bytes 0-99", (0, 100)),
        ("0-99/100", (0, 100)),
    ],
)
def test_forms_of_content_range(text: str, span: tuple[int, int]) -> None:
    assert parse_content_range(text) == span


@pytest.mark.parametrize(
    "text",
    # RFC 9110, 14.4: invalid also where the complete length is not beyond the last position
    [
        *["", "-", "0-", "-5", "5", "a-b", "1-0", "0--1", "+0-1", "0 - 1", "0-1-2", "0-1,2-3", "0x0-1", "bytes */100"],
        *["bytes 0-99/99", "bytes 0-99/0", "bytes 0-99/x", "bytes 0-99/", "bytes  0-99/*", "items 0-1/2", "0-1/-2"],
        *["0.0-1", "1_0-2_0", "²-³", "١-٢", "0-1\n2", "0-" + "9" * 20, "9" * 20 + "-" + "9" * 20, "1" * 1_000_000],
    ],
    ids=lambda text: text[:30],
)
def test_no_content_range(text: str) -> None:
    with refused(416, "RANGE_INVALID") as caught:
        parse_content_range(text)
    assert caught.value.detail == {"range": text[:64]}


def test_the_wrong_place_is_told_with_the_right_one() -> None:
    failure = wrong_place(100)
    assert (failure.status, failure.code) == (416, "RANGE_INVALID")
    assert failure.headers == [("Range", "0-99")]
    assert failure.detail == {"offset": 100}
    assert wrong_place(0, "/v2/a/blobs/uploads/x").headers == [("Range", "0-0"), ("Location", "/v2/a/blobs/uploads/x")]


def test_a_chunk_out_of_order() -> None:
    """distribution-spec, "Pushing a blob in chunks": 416, and the chunk that was due is taken afterwards."""
    upload = machine(b"abc")
    for span in ((0, 3), (2, 4), (4, 6)):
        for kind in (Input.PATCH, Input.PUT):
            with refused(416, "RANGE_INVALID") as caught:
                upload.begin(kind, span, None)
            assert caught.value.headers == [("Range", "0-2")]
            assert upload.state is State.IDLE
    upload.begin(Input.PATCH, (3, 5), 2)
    upload.receive(b"de")
    upload.end_of_body()
    assert upload.rest(5) == 3  # there is no mark at 5
    assert upload.offset == 3


def test_content_range_and_content_length_disagree() -> None:
    upload = machine(b"abc")
    for length in (0, 1, 3):
        with refused(400, "SIZE_INVALID", "Content-Range tells of 2 bytes"):
            upload.begin(Input.PATCH, (3, 5), length)
        assert upload.state is State.IDLE


def test_more_or_less_than_was_announced() -> None:
    for span, length in (((0, 3), None), (None, 3), ((0, 3), 3)):
        upload = machine()
        upload.begin(Input.PATCH, span, length)
        upload.receive(b"ab")
        with refused(400, "SIZE_INVALID", "2 bytes came of 3"):
            upload.end_of_body()
        with refused(400, "SIZE_INVALID", "more than the 3 bytes"):
            upload.receive(b"cd")
        assert upload.offset == 2
        upload.receive(b"c")
        upload.end_of_body()
        assert upload.matches(Digest.of(b"abc"))


def test_what_an_earlier_request_announced_is_forgotten() -> None:
    upload = machine()
    upload.begin(Input.PATCH, None, 1)
    upload.receive(b"a")
    upload.mark()
    upload.rest(1)
    upload.begin(Input.PUT, None, None)
    upload.receive(b"bcd")
    upload.end_of_body()
    assert upload.matches(Digest.of(b"abcd"))


def test_the_limit() -> None:
    upload = machine(b"ab", limit=4)
    for span, length in ((None, 3), ((2, 5), None), ((2, 5), 3)):
        with refused(413, "SIZE_INVALID", "at most 4 bytes"):
            upload.begin(Input.PATCH, span, length)
        assert upload.state is State.IDLE
    upload.begin(Input.PATCH, None, 2)
    upload.receive(b"cd")
    upload.mark()
    upload.rest(4)
    upload.begin(Input.PUT, None, None)
    with refused(413, "SIZE_INVALID", "at most 4 bytes"):
        upload.receive(b"e")
    assert upload.matches(Digest.of(b"abcd"))
    upload.receive(b"")
    upload.accept()


def test_another_algorithm_must_be_read_again() -> None:
    upload = machine(b"abc")
    assert upload.algorithm == "sha256"
    assert upload.matches(Digest.of(b"abc", "sha512")) is None
    assert upload.matches(Digest.of(b"abd")) is False
    assert upload.matches(Digest.of(b"abc")) is True


def test_a_hash_that_cannot_be_saved_goes_back_all_the_same() -> None:
    upload = UploadMachine(hasher("sha256", resumable=False))
    upload.begin(Input.PATCH, None, None)
    upload.receive(b"abc")
    upload.mark()
    upload.receive(b"def")
    upload.mark()
    assert upload.rest(5) == 3
    assert upload.hash_state(3) is None
    assert upload.matches(Digest.of(b"abc"))


def test_marks_below_the_durable_one_are_forgotten() -> None:
    upload = machine()
    upload.begin(Input.PATCH, None, None)
    for _ in range(4):
        upload.receive(b"ab")
        upload.mark()
    assert upload.marked(5) == 4
    with pytest.raises(KeyError):
        upload.hash_state(2)
    assert upload.hash_state(4) is not None
    assert upload.hash_state(6) is not None
    assert upload.rest(7) == 6
    for at in (4, 8):
        with pytest.raises(KeyError):
            upload.hash_state(at)


def test_a_mark_stays_what_it_was() -> None:
    """Both a mark and what went back to it must be copies: neither follows the running hash."""
    upload = machine()
    upload.begin(Input.PATCH, None, None)
    upload.receive(b"ab")
    upload.mark()
    upload.mark()
    assert upload.rest(2) == 2
    upload.begin(Input.PATCH, None, None)
    upload.receive(b"cd")
    state = upload.hash_state(2)
    assert state is not None
    assert restore(state).hexdigest() == hashlib.sha256(b"ab").hexdigest()
    assert upload.rest(3) == 2
    assert upload.matches(Digest.of(b"ab"))


class Uploads(RuleBasedStateMachine):
    """One session through many requests, and through many processes, beside the bytes themselves."""

    @initialize(
        algorithm=st.sampled_from(ALGORITHMS),
        limit=st.none() | st.integers(0, 120),
        resumable=st.sampled_from([True, True, True, False]),
    )
    def start(self, algorithm: str, limit: int | None, resumable: bool) -> None:
        self.upload = UploadMachine(hasher(algorithm, resumable=resumable), limit)
        self.algorithm, self.limit, self.resumable = algorithm, limit, resumable
        self.kept = b""
        self.marks = {0}
        self.state = State.IDLE
        self.expected: int | None = None

    def may(self, happens: Input) -> bool:
        return happens in MAY_COME[self.state]

    def refusal(self, happened: Callable[[], object]) -> tuple[int, str]:
        with pytest.raises(RegistryError) as caught:
            happened()
        return caught.value.status, caught.value.code

    def must_be_out_of_place(self, happened: Callable[[], object]) -> None:
        ended = self.state in (State.DONE, State.ENDED)
        wanted = (404, "BLOB_UPLOAD_UNKNOWN") if ended else (400, "BLOB_UPLOAD_INVALID")
        assert self.refusal(happened) == wanted

    @rule(
        kind=st.sampled_from([Input.PATCH, Input.PUT]),
        shift=st.sampled_from([None, None, 0, 0, 0, -1, 1, 50]),
        size=st.integers(1, 30),
        length=st.sampled_from([None, "right", "right", "wrong"]),
    )
    def begin(self, kind: Input, shift: int | None, size: int, length: str | None) -> None:
        first = None if shift is None else max(0, len(self.kept) + shift)
        span = None if first is None else (first, first + size)
        content_length = {None: None, "right": size, "wrong": size - 1}[length]

        def begin() -> None:
            self.upload.begin(kind, span, content_length)

        announced = size if span is not None else content_length
        if not self.may(kind):
            self.must_be_out_of_place(begin)
        elif first not in (None, len(self.kept)):
            assert self.refusal(begin) == (416, "RANGE_INVALID")
        elif span is not None and length == "wrong":
            assert self.refusal(begin) == (400, "SIZE_INVALID")
        elif announced is not None and self.limit is not None and len(self.kept) + announced > self.limit:
            assert self.refusal(begin) == (413, "SIZE_INVALID")
        else:
            begin()
            self.state = MAY_COME[self.state][kind]
            self.expected = None if announced is None else len(self.kept) + announced

    @rule(data=st.binary(max_size=20), lent=st.booleans())
    def receive(self, data: bytes, lent: bool) -> None:
        buffer = bytearray(data)
        offset = len(self.kept) + len(data)

        def receive() -> None:
            self.upload.receive(memoryview(buffer) if lent else data)

        if not self.may(Input.DATA):
            self.must_be_out_of_place(receive)
        elif self.expected is not None and offset > self.expected:
            assert self.refusal(receive) == (400, "SIZE_INVALID")
        elif self.limit is not None and offset > self.limit:
            assert self.refusal(receive) == (413, "SIZE_INVALID")
        else:
            receive()
            self.kept += data
        buffer[:] = b"\xdd" * len(buffer)

    @precondition(lambda self: self.state in (State.RECEIVING, State.CLOSING))
    @rule()
    def end_of_body(self) -> None:
        if self.expected is None or self.expected == len(self.kept):
            self.upload.end_of_body()
        else:
            assert self.refusal(self.upload.end_of_body) == (400, "SIZE_INVALID")

    @rule()
    def mark(self) -> None:
        self.upload.mark()
        self.marks.add(len(self.kept))

    def last_mark(self, durable: int) -> int:
        return max(mark for mark in self.marks if mark <= durable)

    @rule(data=st.data())
    def save(self, data: st.DataObject) -> None:
        durable = data.draw(st.integers(min(self.marks), len(self.kept) + 5))
        at = self.upload.marked(durable)
        assert at == self.last_mark(durable)
        self.marks = {mark for mark in self.marks if mark >= at}
        for mark in self.marks:
            state = self.upload.hash_state(mark)
            assert (state is not None) == self.resumable
            if state is not None:
                assert restore(state).count == mark
                assert restore(state).digest() == hashlib.new(self.algorithm, self.kept[:mark]).digest()

    @rule(data=st.data(), lost=st.booleans(), elsewhere=st.booleans())
    def rest(self, data: st.DataObject, lost: bool, elsewhere: bool) -> None:
        durable = data.draw(st.integers(min(self.marks), len(self.kept))) if lost else len(self.kept)
        if not self.may(Input.REST):
            self.must_be_out_of_place(lambda: self.upload.rest(durable))
            return
        at = self.last_mark(durable)
        assert self.upload.rest(durable) == at
        self.kept = self.kept[:at]
        self.marks = {at}
        self.state = State.IDLE
        if elsewhere and self.resumable:  # another process takes the session up
            state = self.upload.hash_state(at)
            assert state is not None
            self.upload = UploadMachine(restore(state), self.limit)

    @rule()
    def accept(self) -> None:
        if self.may(Input.ACCEPT):
            self.upload.accept()
            self.state = State.DONE
        else:
            self.must_be_out_of_place(self.upload.accept)

    @rule()
    def refuse(self) -> None:
        if self.may(Input.REFUSE):
            self.upload.refuse()
            self.state = State.ENDED
        else:
            self.must_be_out_of_place(self.upload.refuse)

    @invariant()
    def the_digest_is_that_of_the_bytes_kept(self) -> None:
        assert self.upload.state is self.state
        assert self.upload.offset == len(self.kept)
        assert self.upload.algorithm == self.algorithm
        assert self.upload.matches(Digest.of(self.kept, self.algorithm)) is True
        assert self.upload.matches(Digest.of(self.kept + b"x", self.algorithm)) is False
        other = ALGORITHMS[self.algorithm == ALGORITHMS[0]]
        assert self.upload.matches(Digest.of(self.kept, other)) is None


Uploads.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestUploads = Uploads.TestCase
