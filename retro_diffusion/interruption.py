"""Ctrl-C at a good moment: a signal waits until nothing is half done, a second one does not wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Holds back the first SIGINT or SIGTERM of a while, and hands it on when asked to.

    ::

        signals = Signals()
        while ...:
            with signals.deferred():
                step()  # is not torn apart
            if signals.held:
                signals.deliver()

    Attributes
    ----------
    held
        Number of the signal that was held back, or 0.
    hurried
        Whether a second one came.
    """

    def __init__(self) -> None:
        self.held = 0
        self.hurried = False
        self._handlers: dict[int, signal._HANDLER] = {}

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold back the first signal that comes inside the block; a second one acts at once.

        Signals that are ignored stay ignored. Outside the main thread, where Python handles no
        signals, this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        current = {number: signal.getsignal(number) for number in _SIGNALS}
        self._handlers = {n: h for n, h in current.items() if h not in (None, signal.SIG_IGN)}
        for number in self._handlers:
            signal.signal(number, self._hold)
        try:
            yield
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def deliver(self) -> None:
        """Do what the signal would have done: SIGINT raises KeyboardInterrupt, SIGTERM SystemExit.

        If none was held, this process is to stop because another was told to: KeyboardInterrupt.
        A handler of the program's own is called instead; if it returns, the signal is settled.
        """
        if not self.held:
            raise KeyboardInterrupt
        self._obey(self.held, None)
        self.held = 0

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.held:
            self.hurried = True
            self._obey(number, frame)
        self.held = number

    def _obey(self, number: int, frame: FrameType | None) -> None:
        handler = self._handlers[number]
        if not callable(handler):
            _exit(number)
        handler(number, frame)


def exit_on_sigterm() -> None:
    """Let SIGTERM end this program as an exception does: files are closed, checkpoints are saved."""
    signal.signal(signal.SIGTERM, lambda number, frame: _exit(number))


def _exit(number: int) -> NoReturn:
    raise SystemExit(128 + number)  # the status by which shells know a signal
