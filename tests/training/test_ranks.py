"""What two ranks log, over gloo in processes of their own: the means that one process finds."""

import multiprocessing
import os
from multiprocessing.connection import Connection

import pytest
import torch
import torch.distributed as dist

from t2i.training.distributed import ALONE, Ranks
from t2i.training.statistics import Statistics

ROWS = 8  # of a whole batch; a rank of two has half of them
# What is measured before each reading, and of which rows.
READINGS = {
    "as in a step": {"loss": range(8), "flipped": (0, 1, 4), "difference": (0,), "left": (2,), "right": (6, 7)},
    "equally many, with other names": {"first": (1,), "second": (5,)},
    "one rank has nothing": {"difference": (4,)},
    "nobody has anything": {},
    "all have all": {"loss": range(8)},
}


def read_all(ranks: Ranks) -> list[dict[str, float]]:
    """The means of each reading, over all ranks, where this one measures its own rows."""
    rows, statistics, found = ranks.rows(ROWS), Statistics(), []
    for reading in READINGS.values():
        for name, measured in reading.items():
            if mine := [float(row**2) for row in measured if rows.start <= row < rows.stop]:
                statistics.add(name, torch.tensor(mine))
        found.append(statistics.read(ranks))
    return found


def be_rank(rank: int, port: int, answer: Connection) -> None:
    """One of two processes of a run: joins the other, and sends what it read."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), **place)
    ranks = Ranks.join(torch.device("cpu"))
    answer.send(read_all(ranks))
    ranks.leave()


@pytest.fixture
def two_ranks():
    """What each of two ranks read."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # they meet there, as torchrun's do
    forked = multiprocessing.get_context("fork")  # torch is imported already
    ends, both = [], []
    for rank in range(2):
        end, answer = forked.Pipe(duplex=False)
        both.append(forked.Process(target=be_rank, args=(rank, store.port, answer), daemon=True))
        both[-1].start()
        answer.close()
        ends.append(end)
    yield [end.recv() for end in ends]
    for process in both:
        process.join(600)


def test_what_some_ranks_alone_have_measured_is_the_mean_that_one_process_finds(two_ranks):
    assert two_ranks[0] == two_ranks[1] == read_all(ALONE)
    assert two_ranks[0][0]["flipped"] == (0 + 1 + 16) / 3
