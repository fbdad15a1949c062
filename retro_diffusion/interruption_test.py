"""Signals wait for a good moment, once."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from retro_diffusion.interruption import Signals, exit_on_sigterm


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_waits_for_the_end_of_the_block() -> None:
    signals, before = Signals(), signal.getsignal(signal.SIGINT)
    with signals.deferred():
        send(signal.SIGINT)
        done = True
    assert done
    assert signals.held == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signals.deliver()


def test_a_second_signal_does_not_wait() -> None:
    signals, sent = Signals(), []

    def block() -> None:
        with signals.deferred():
            for number in range(3):
                sent.append(number)
                send(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert sent == [0, 1]
    assert signals.hurried


def test_sigterm_is_an_exit() -> None:
    signals = Signals()
    with signals.deferred():
        send(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        signals.deliver()


def test_without_a_signal_of_its_own_a_process_is_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt):
        Signals().deliver()


def test_a_programs_own_handler_is_called_and_settles_it() -> None:
    called: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    try:
        signals = Signals()
        with signals.deferred():
            send(signal.SIGTERM)
        assert called == []
        signals.deliver()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [signal.SIGTERM]
    assert not signals.held


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        signals = Signals()
        with signals.deferred():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not signals.held


def test_other_threads_have_no_signals() -> None:
    entered: list[bool] = []

    def block() -> None:
        with Signals().deferred():
            entered.append(True)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert entered == [True]


def test_exit_on_sigterm() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        exit_on_sigterm()
        with pytest.raises(SystemExit, match="143"):
            send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
