"""Workers that die, at any moment: one line, no waiting for ever, nobody left behind."""

import multiprocessing
import random
import time

import pytest
from prepare_driver import LONG, DyingImage, RaisingImage, SlowImage, StuckImage

from t2i.data.decoding import TASK, Decoders, decode
from t2i.data.records import Record
from t2i.errors import UserError

RESOLUTION = 256  # an answer of 3 MiB: it takes a while to send


def entries(images):
    return [Record(str(number), ("a caption",), image) for number, image in enumerate(images)]


def check_death(seconds, workers, at):
    """The worker of image `at` dies so soon after it was decoded; True where that was noticed."""
    images = [DyingImage(seconds if number == at else None) for number in range(20 * TASK)]
    try:
        with Decoders(workers) as pool:
            for _ in decode(pool, entries(images), RESOLUTION):
                pass
    except UserError as error:
        assert "a decoding process died" in str(error) and "\n" not in str(error)
        return True
    finally:
        assert multiprocessing.active_children() == []
    return False  # it died when there was nothing left to do


def check_deaths(count, seed):
    chance = random.Random(seed)
    seconds = [0.0 if number % 3 == 0 else chance.random() * 0.03 for number in range(count)]
    deaths = [check_death(after, chance.choice((1, 2, 5)), chance.randrange(15 * TASK)) for after in seconds]
    assert deaths.count(True) >= count // 2
    print(f"{deaths.count(True)} deaths noticed of {count}")


def test_a_worker_that_dies_at_any_moment_ends_in_one_line():
    check_deaths(3, seed=0)


@pytest.mark.slow
def test_a_worker_that_dies_at_any_of_many_moments_ends_in_one_line():
    check_deaths(30, seed=1)


def test_after_an_exception_no_worker_is_left_whatever_it_was_doing():
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Decoders(3) as pool:
        for _ in range(9):
            pool.submit([StuckImage()], RESOLUTION)
        raise KeyboardInterrupt
    assert multiprocessing.active_children() == [] and time.monotonic() - started < LONG


def test_what_a_image_raises_is_raised_here_and_the_order_stays():
    chance = random.Random(0)
    slow = [SlowImage(chance.random() * 0.004, number % 256) for number in range(120)]
    with Decoders(4) as pool:
        found = [decoded.pixels[0, 0, 0] for _, decoded in decode(pool, entries(slow), 8)]
        assert found == [number % 256 for number in range(120)]
    with pytest.raises(UserError, match="says the image"), Decoders(2) as pool:
        list(decode(pool, entries([*slow, RaisingImage(True)]), 8))
    with pytest.raises(RuntimeError, match="KeyError in a decoding process"), Decoders(2) as pool:
        list(decode(pool, entries([*slow, RaisingImage(False)]), 8))
