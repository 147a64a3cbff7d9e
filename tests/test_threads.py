"""A core that another program keeps busy does not hold the others up."""

import pytest
import torch
from short_runs import config, start

from t2i.training import threads as module
from t2i.training.threads import ThreadWatch, counts_to_try, measure

QUIET, BUSY = {2: 1.0, 1: 1.5}, {2: 40.0, 1: 1.5}


@pytest.fixture
def two(monkeypatch):
    """Two threads that nobody chose."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def watch(two, lines):
    return ThreadWatch(lines.append)


def test_a_quiet_machine_trains_with_all_threads(watch, lines):
    for _ in range(50):
        watch.take_in(QUIET)
    assert (watch.threads, lines) == (2, [])


def test_beside_a_busy_core_it_trains_with_one_thread_less_and_says_so_once(watch, lines):
    for _ in range(20):
        watch.take_in(BUSY)
    assert watch.threads == 1
    assert lines == ["training with 1 of 2 threads: more would wait for busy cores"]


def test_two_bad_looks_are_no_evidence(watch, lines):
    for seconds in (BUSY, QUIET, QUIET, BUSY, BUSY, QUIET, QUIET, QUIET):
        watch.take_in(seconds)
    assert (watch.threads, lines) == (2, [])


def test_cores_that_are_free_again_are_used_again_after_six_good_looks(watch, lines):
    for seconds in [BUSY] * 3 + [QUIET] * 5 + [BUSY] + [QUIET] * 5:
        watch.take_in(seconds)
    assert watch.threads == 1
    watch.take_in(QUIET)
    assert watch.threads == 2
    assert lines[-1] == "training with 2 of 2 threads: cores are free again"


def test_of_many_threads_as_many_stay_as_are_fastest(watch):
    watch.most = watch.threads = 8
    for _ in range(3):
        watch.take_in({8: 9.0, 7: 1.2, 4: 1.9, 2: 3.7, 1: 7.0})
    assert watch.threads == 7


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [2, 1]), (3, [3, 2, 1]), (8, [8, 7, 4, 2, 1]), (12, [12, 11, 6, 3, 1])]
)
def test_all_threads_all_but_one_and_halves_are_tried(most, counts):
    assert counts_to_try(most) == counts


def test_a_measurement_has_a_time_for_every_count(two):
    seconds = measure([2, 1])
    assert seconds.keys() == {2, 1} and min(seconds.values()) > 0


def test_a_step_looks_only_where_it_is_time_to(watch, monkeypatch):
    looks = []
    monkeypatch.setattr(module, "measure", lambda counts: looks.append(counts) or BUSY)
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    watch.next = 2.0
    seen = []
    for now in (0.0, 1.9, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 13.9, 14.0):  # noqa: B007 - the clock reads it
        watch.tick()
        seen.append((len(looks), torch.get_num_threads()))
    assert seen == [(0, 2), (0, 2), (1, 2), (1, 2), (2, 2), (2, 2), (3, 1), (3, 1), (3, 1), (4, 1)]
    watch.close()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_threads_that_the_user_chose_stand(two, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    monkeypatch.setattr(module, "measure", lambda counts: pytest.fail("measured"))
    watch = ThreadWatch(print)
    watch.next = 0.0
    watch.tick()
    assert torch.get_num_threads() == 2


def test_what_each_number_of_threads_takes_is_what_is_measured(two, monkeypatch):
    """Two threads wait for a busy core, one does not; how it looks on real ones is benchmarks/busy_core.py's."""
    clock, worked = 0.0, []

    def work(*args, **kwargs):
        nonlocal clock
        worked.append(torch.get_num_threads())
        clock += BUSY[torch.get_num_threads()] * 1e-4
        return maps

    maps = torch.ones(1)
    monkeypatch.setattr(module.F, "conv2d", work)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock)
    seconds = measure([2, 1])
    assert seconds == {count: pytest.approx(took * 1e-4) for count, took in BUSY.items()}
    # In turns: a core that is busy for a moment is so for both.
    turns = [count for count, before in zip(worked, [0, *worked]) if count != before]
    assert turns == [2, 1] * module.TURNS


def test_a_run_says_that_it_trains_with_fewer_and_leaves_as_many_as_there_were(two, shapes_data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", lambda counts: BUSY)
    monkeypatch.setattr(module, "DOUBT", 0.0)
    lines = []
    _, outcome = start(config(), shapes_data, tmp_path, say=lines.append)
    assert outcome.reason == "done"
    assert lines == ["training with 1 of 2 threads: more would wait for busy cores"]
    assert torch.get_num_threads() == 2
