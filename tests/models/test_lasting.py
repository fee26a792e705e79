"""What stays open is opened once, when it is first needed; the rest is opened anew each time."""

from contextlib import contextmanager

import pytest

from simpletuner.models.lasting import Lasting


def opener(told):
    @contextmanager
    def opened():
        told.append("opened")
        yield object()
        told.append("closed")

    return opened


def test_what_stays_is_the_same_thing_until_it_is_closed():
    told: list[str] = []
    lasting = Lasting(opener(told), stays=True)
    assert told == []
    with lasting() as first:
        pass
    with lasting() as second:
        assert told == ["opened"]
    assert first is second
    lasting.close()
    assert told == ["opened", "closed"]
    with lasting() as third:
        assert third is not first


def test_what_does_not_stay_is_closed_at_once():
    told: list[str] = []
    lasting = Lasting(opener(told), stays=False)
    for _ in range(2):
        with lasting():
            pass
    assert told == ["opened", "closed"] * 2
    lasting.close()
    assert told == ["opened", "closed"] * 2


@pytest.mark.parametrize("stays", [True, False])
def test_what_fails_to_open_can_be_asked_for_again(stays):
    answers = [False, True]

    @contextmanager
    def opened():
        if not answers.pop(0):
            raise OSError("not yet")
        yield 3

    lasting = Lasting(opened, stays=stays)
    with pytest.raises(OSError, match="not yet"), lasting():
        pass
    with lasting() as found:
        assert found == 3
