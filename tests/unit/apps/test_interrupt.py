import signal

import pytest

from pasdedeux.apps.interrupt import Interrupt


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_before_denoising_it_ends_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupt():
        press()


def test_while_denoising_the_first_asks_and_the_second_ends() -> None:
    with Interrupt() as stop:
        stop.gentle = True
        assert not stop()
        press()
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            press()


def test_what_was_there_before_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
