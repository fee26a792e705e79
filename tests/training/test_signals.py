"""Signals become wishes that the loop can look at, and what was there before comes back."""

import os
import signal
import threading
import time

import pytest

from simpletuner.training.signals import Wishes, heard


def sent(number):
    os.kill(os.getpid(), number)
    for _ in range(100):  # a signal is handled between two instructions of the main thread
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop_and_interrupts_nothing(number):
    wishes = Wishes()
    with heard(wishes):
        sent(number)
        assert (wishes.stop, wishes.save) == (number, False)


def test_one_signal_asks_to_save_and_to_go_on():
    wishes = Wishes()
    with heard(wishes):
        sent(signal.SIGUSR1)
    assert (wishes.stop, wishes.save) == (0, True)


def test_a_second_ctrl_c_interrupts_at_once():
    wishes = Wishes()
    with heard(wishes):
        sent(signal.SIGINT)
        time.sleep(0.6)
        with pytest.raises(KeyboardInterrupt):
            sent(signal.SIGINT)


def test_one_press_that_a_launcher_hands_on_is_not_two():
    wishes = Wishes()
    with heard(wishes):
        sent(signal.SIGINT)
        sent(signal.SIGINT)
    assert wishes.stop == signal.SIGINT


def test_what_signals_did_before_they_do_again():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with heard(Wishes()):
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_a_thread_that_hears_no_signals_trains_all_the_same():
    done = []

    def work():
        with heard(Wishes()):
            done.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize(("speaks", "said"), [(True, b"Press it again to stop at once"), (False, b"")])
def test_ctrl_c_is_answered_on_the_terminal_at_once_by_one_process(capfd, speaks, said):
    with heard(Wishes(speaks=speaks)):
        sent(signal.SIGINT)
    told = capfd.readouterr().err.encode()
    assert said in told and bool(told) == bool(said)
