"""One process that serves nothing itself, and sees to it that its workers do: starts, replaces and ends them.

One rule: it holds what must outlive a worker. That is the lock on the data folder, and every listening socket: who
waits at a dead worker's is served by its successor. It imports no event loop, so that it is small, is there at once,
and leaves the processors to the workers, which are starting meanwhile.

The first worker is told to serve before any other: at a first start it makes the account ``admin`` and the keys.
"""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from enseada.datafolder import hold
from enseada.listeners import ListenError, close_all, open_places
from enseada.orders import END, NOW, Failed, Order, Passed, encode
from enseada.starterror import StartError
from enseada.watchdog import END_HUNG, LAST_MOMENTS
from enseada.workerprocess import ENDING_SIGNALS, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from enseada.config import Settings
    from enseada.listeners import Listener, Place
    from enseada.orders import Ready

    Announce = Callable[[Sequence[str], str | None], None]
    """Takes the addresses that are listened on, and the password of ``admin`` if one was made up."""

log = logging.getLogger("enseada.supervisor")

STEADY_TIME = 10.0
"""Seconds of serving after which a worker's death is no longer counted with those before."""
FIRST_PAUSE = 0.1
"""Seconds before the successor of a worker that died soon after its predecessor; doubled with each further death."""
LONGEST_PAUSE = 5.0
MOST_FAILURES = 10
"""Deaths of workers in one's place, one after the other, that never came to serve: then the supervisor gives up."""
KILL_TIME = 5.0
"""Seconds that a worker has, when its own time to end is over, until it is killed; and then to be gone."""
LONGEST_WAIT = 3600.0
"""Seconds that the system is asked to wait at once."""


def supervise(settings: Settings, turn: int, announce: Announce) -> int:
    """Serve with ``settings.processes`` workers until a signal ends it; return the exit code. For the main thread.

    ``turn``: see `enseada.logs.configure`. ``announce`` is called once all workers serve. Raises StartError, also later
    on, where workers that take a dead one's place never come to serve. No worker is left then, nor when it returns,
    save one that a disk keeps from being killed.
    """
    with ExitStack() as stack:
        lock = stack.enter_context(hold(settings))
        try:
            places = open_places(settings.listen, settings.processes)
        except ListenError as reason:
            raise StartError(str(reason)) from reason
        for place in places:
            stack.callback(close_all, place)
        signals = stack.enter_context(_Signals())
        selector = stack.enter_context(selectors.DefaultSelector())
        return _Supervisor(settings, announce, (lock, turn), places, signals, selector).run()


@dataclass(eq=False)
class _Post:
    """One of the posts that a worker has, and after it its successor."""

    number: int
    listeners: Sequence[Listener]
    process: WorkerProcess | None = None
    ordered: bool = False
    ready_since: float | None = None
    failure: str = ""
    """Why the process could not serve, in its own words."""
    due: float | None = None
    """When a successor is to be started."""
    deaths: int = 0
    """One soon after the other."""
    failures: int = 0
    """Deaths in a row of workers that never came to serve."""


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        announce: Announce,
        files: tuple[int, int],
        places: Sequence[Place],
        signals: _Signals,
        selector: selectors.BaseSelector,
    ) -> None:
        """``files``: the lock's, and the turn's."""
        self._settings = settings
        self._announce = announce
        self._lock, self._turn = files
        self._places = places
        self._signals = signals
        self._selector = selector
        numbers = range(1, settings.processes + 1)
        self._posts = [_Post(number, [place[(number - 1) % len(place)] for place in places]) for number in numbers]
        self._prepared = False  # a worker serves, and has made what a first start makes
        self._announced = False
        self._password: str | None = None
        self._failure: str | None = None  # why it gave up
        self._code = 0
        self._deadline: float | None = None  # when workers are killed; None: the end has not begun
        self._killed = False

    def run(self) -> int:
        self._selector.register(self._signals.reader, selectors.EVENT_READ, self._on_signals)
        try:
            for post in self._posts:
                if self._deadline is None:
                    self._start(post)
            self._loop()
        except BaseException:
            self._end(NOW, LAST_MOMENTS)
            self._loop()
            raise
        if not self._announced and self._password is not None:
            self._announce([], self._password)  # nobody will ever know it otherwise
        if self._failure is not None:
            raise StartError(self._failure)
        return self._code

    def _loop(self) -> None:
        """Until there is no worker, and none is to come."""
        while any(post.process is not None or post.due is not None for post in self._posts):
            for key, _ in self._selector.select(self._patience()):
                key.data()
            now = time.monotonic()
            for post in self._posts:
                if post.due is not None and post.due <= now:
                    post.due = None
                    self._start(post)
            if self._deadline is not None and self._deadline <= now:
                if self._killed:
                    break
                self._kill()

    def _patience(self) -> float:
        """Seconds until there is something to do."""
        times = [post.due for post in self._posts if post.due is not None]
        if self._deadline is not None:
            times.append(self._deadline)
        now = time.monotonic()
        return max(0.0, min(now + LONGEST_WAIT, *times) - now) if times else LONGEST_WAIT

    # -- workers

    def _start(self, post: _Post) -> None:
        """Start a process for a post. It is told to serve at once if it is the first, or if one has served before."""
        files = [self._lock, self._turn, *(listener.socket.fileno() for listener in post.listeners)]
        try:
            process = WorkerProcess(files)
        except OSError as reason:
            self._lost(post, f"worker {post.number} could not be started: {reason.strerror}", 1)
            return
        post.process = process
        self._selector.register(process.control, selectors.EVENT_READ, lambda: self._listen_to(post, process))
        if self._prepared or post is self._posts[0]:
            self._order(post)

    def _order(self, post: _Post) -> None:
        """Tell a worker to serve."""
        assert post.process is not None
        settings = self._settings
        password = None if self._prepared else settings.admin_password  # it is for the first start
        order = Order(
            settings=replace(settings, workers=len(self._posts), listen=(), admin_password=password),
            number=post.number,
            listeners=tuple(Passed(each.socket.fileno(), each.address) for each in post.listeners),
            turn=self._turn,
        )
        post.ordered = True
        post.process.tell(encode(order))

    def _listen_to(self, post: _Post, process: WorkerProcess) -> None:
        """Take what a worker says."""
        if post.process is not process:
            return  # it was found dead in this same round
        try:
            for answer in process.answers():
                if isinstance(answer, Failed):
                    post.failure = answer.sentence
                else:
                    self._on_ready(post, answer)
        except EOFError:
            self._selector.unregister(process.control)

    def _on_ready(self, post: _Post, answer: Ready) -> None:
        post.ready_since = time.monotonic()
        post.failures = 0
        self._password = self._password or answer.admin_password
        if self._deadline is not None:
            return
        self._prepared = True
        for each in self._posts:
            if each.process is not None and not each.ordered:
                self._order(each)
        if self._announced:
            log.info("worker %d serves", post.number)
            if answer.admin_password is not None:  # somebody had removed the account
                self._announce([], answer.admin_password)
        elif all(each.ready_since is not None for each in self._posts):
            self._announced = True
            self._announce([place[0].address for place in self._places], self._password)

    def _reap(self) -> None:
        """See who is dead."""
        for post in self._posts:
            process = post.process
            if process is None or (code := process.ended()) is None:
                continue
            if process.control in self._selector.get_map():
                self._listen_to(post, process)  # its last words
            if process.control in self._selector.get_map():
                self._selector.unregister(process.control)
            process.close()
            post.process, post.ordered = None, False
            how = f"was killed by {_name(-code)}" if code < 0 else f"ended with exit code {code}"
            self._lost(post, f"worker {post.number} (process {process.pid}) {how}", code)

    def _lost(self, post: _Post, sentence: str, code: int) -> None:
        """A worker is dead, or could not be started: end, or say when there will be another."""
        now = time.monotonic()
        since, post.ready_since = post.ready_since, None
        failure, post.failure = post.failure, ""
        if self._deadline is not None:
            if code == END_HUNG:
                self._code = END_HUNG
            elif code and not self._killed:
                log.error("%s", sentence)
            return
        if not self._announced:
            self._give_up(failure or f"{sentence} at the start", NOW, LAST_MOMENTS)
            return
        steady = since is not None and now - since >= STEADY_TIME
        post.deaths = 1 if steady else post.deaths + 1
        post.failures = post.failures + 1 if since is None else 0
        if failure:
            sentence += f": {failure}"
        if post.failures >= MOST_FAILURES:
            sentence += f"; so did {MOST_FAILURES - 1} before it"
            log.error("%s: ending", sentence)
            self._give_up(sentence, END, self._settings.grace + LAST_MOMENTS)
            return
        pause = 0.0 if post.deaths == 1 else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (post.deaths - 2))
        post.due = now + pause
        level = logging.ERROR if code else logging.WARNING
        log.log(level, "%s; another takes its place in %g s", sentence, pause)

    # -- the end

    def _on_signals(self) -> None:
        numbers = self._signals.take()
        for number in numbers:
            if number in ENDING_SIGNALS:
                self._asked(number)
        if signal.SIGCHLD in numbers:
            self._reap()

    def _asked(self, number: int) -> None:
        """The first signal begins the graceful end, the second cancels what is left, the third is the system's."""
        if self._deadline is None:
            log.info("ending: requests under way have %g seconds", self._settings.grace)
            self._end(END, self._settings.grace + LAST_MOMENTS)
        else:
            log.warning("ending at once")
            self._code = 128 + number
            self._signals.let_go()
            self._end(NOW, LAST_MOMENTS)

    def _give_up(self, sentence: str, message: bytes, seconds: float) -> None:
        self._failure = sentence
        self._end(message, seconds)

    def _end(self, message: bytes, seconds: float) -> None:
        """Tell all workers to end, and give them so many seconds. Nobody can connect any more."""
        for place in self._places:
            close_all(place)
        for post in self._posts:
            post.due = None
            if post.process is not None:
                post.process.tell(message)
        self._deadline = time.monotonic() + seconds + KILL_TIME

    def _kill(self) -> None:
        log.error("the end hangs, perhaps over a disk that does not answer: cut")
        self._code = END_HUNG
        self._killed = True
        self._deadline = time.monotonic() + KILL_TIME
        for post in self._posts:
            if post.process is not None:
                post.process.kill()


class _Signals:
    """The signals that end us, and those that say that a worker has died, as something to be read."""

    reader: socket.socket

    def __enter__(self) -> _Signals:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        handled = (*ENDING_SIGNALS, signal.SIGCHLD)
        self._handlers = {number: signal.signal(number, lambda *_: None) for number in handled}
        self._descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._descriptor)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self.reader.close()
        self._writer.close()

    def take(self) -> bytes:
        """The numbers of those that have come."""
        try:
            return self.reader.recv(4096)
        except BlockingIOError:
            return b""

    def let_go(self) -> None:
        """Have those that end us do so at once from now on."""
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_DFL)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
