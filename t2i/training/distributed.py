"""Several processes, one run: each rank works on its rows of every batch, and gradients are summed.

All that is random, and the order of the data, belong to the global batch (randomness.py), so that two ranks draw what
one would have drawn. Gradients are summed by hand, in one flat tensor a phase, as StyleGAN's code does: our objective
calls parts of a network, which DistributedDataParallel's hooks on `forward` would not see, and one sum after the last
micro-batch is all the traffic there has to be.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from t2i.device import pick_device
from t2i.errors import LostContact, UsageError
from t2i.files import write_json

PATIENCE = timedelta(minutes=30)  # rank 0 may draw a large grid on a slow disk while the others wait


class Ranks:
    """The processes of a run. One alone needs no set-up; every method then does nothing.

    rank: this process's number; 0 writes. size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1, control: Any = None):
        self.rank, self.size, self._control = rank, size, control

    @classmethod
    def join(cls, device: torch.device) -> "Ranks":
        """Meet the others that torchrun started; alone where it started none. Raises UsageError, one line."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            store = _agent_store()
            # -1: torch finds it itself.
            rank, size = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if store else (-1, -1)
            dist.init_process_group(backend, store=store, timeout=PATIENCE, rank=rank, world_size=size)
        # What the host has to know goes over gloo: reading it does not wait for the GPU.
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size(), control)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This rank's rows of a global batch. Raises UsageError where it cannot be divided."""
        if batch % self.size:
            raise UsageError(
                f"a batch of {batch} cannot be divided among {self.size} processes; choose another --batch"
            )
        share = batch // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def sum_gradients(self, module: nn.Module) -> None:
        """Replace each gradient by its sum over the ranks. Ranks have gradients on the same parameters."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        # copy_ keeps the gradient's own memory layout, which the fused optimisers expect.
        for gradient, part in zip(gradients, parts):
            gradient.copy_(part.view(gradient.shape))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, does any rank say so? All ranks get the same answers."""
        if self.size == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._control)
        return tuple(map(bool, votes.tolist()))

    def share(self, value: Any) -> Any:
        """Rank 0's value (plain data), on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self._control)
        return box[0]

    def add_up(self, sums: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, float]:
        """Weighted means over all ranks, from each rank's sums and weights by name. A rank may lack names."""
        # A term may have had images on some ranks alone: they agree on the names before they add up.
        names = sorted(set().union(*self._gather(list(sums))))
        values = torch.zeros(len(names), 2, dtype=torch.float64)
        if sums:
            rows = [names.index(name) for name in sums]
            values[rows, 0] = torch.stack(list(sums.values())).cpu().double()  # the device is asked once
            values[rows, 1] = torch.tensor([weights[name] for name in sums]).double()
        if self.size > 1 and names:
            dist.all_reduce(values, group=self._control)
        return {name: total / weight for name, (total, weight) in zip(names, values.tolist()) if weight > 0}

    def _gather(self, value: Any) -> list[Any]:
        """Each rank's value (plain data), in the order of the ranks."""
        if self.size == 1:
            return [value]
        boxes = [None] * self.size
        dist.all_gather_object(boxes, value, group=self._control)
        return boxes

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier(group=self._control)

    def leave(self) -> None:
        """Say goodbye at the end of a run."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


ALONE = Ranks()


def _agent_store() -> dist.Store | None:
    """Where the processes of this start of a torchrun job meet; None where torch finds the place itself.

    The agent's store outlives a restart, and what dead processes wrote there with it: without a prefix of its own, a
    new start connects to them (torch 2.15).
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=PATIENCE)
    return dist.PrefixStore(f"t2i/start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def lost_contact(error: RuntimeError) -> LostContact | None:
    """The line for the user where another process of the run is gone; None for any other error."""
    known = isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "Gloo", "NCCL"))
    if not known:
        return None
    return LostContact("another process of the run is gone; the last checkpoint is good: go on with t2i train --resume")


def local_device(name: str) -> torch.device:
    """The device called `name`; of a machine's GPUs the one of this process, where torchrun says which.

    Raises UsageError, one line.
    """
    own = os.environ.get("LOCAL_RANK", "")
    if not own or not torch.cuda.is_available() or not (name == "auto" or name.startswith("cuda")):
        return pick_device(name)
    if int(own) >= torch.cuda.device_count():
        raise UsageError(f"no GPU for process {own} of this machine: it has {torch.cuda.device_count()}")
    torch.cuda.set_device(int(own))  # before anything is asked of another
    return pick_device(f"cuda:{own}")


class RestartNote:
    """Which run a torchrun job began, kept until it ends: the same job, started again, goes on with it.

    root: the folder that run folders are made in. arguments: of the command. Torchrun starts a job again after a
    failure; a scheduler, or a person, does so with the same --rdzv-id and the same command. Where torchrun started
    nothing, it remembers nothing.
    """

    def __init__(self, root: Path, arguments: Sequence[str]):
        self.arguments = list(arguments)
        job = os.environ.get("TORCHELASTIC_RUN_ID", "")
        name = "".join(c if c.isalnum() else "-" for c in job)
        self.path = root / f".torchrun-{name}" if job else None
        # Without a --rdzv-id all jobs are called "none": then it is the same one only where torchrun says so.
        self.again = job != "none" or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"

    def begun(self) -> Path | None:
        """The run that an earlier start of this job made; None at the first start."""
        if self.path is None or not self.again:
            return None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            note = json.loads(self.path.read_bytes())
            return Path(note["run"]) if note["arguments"] == self.arguments else None
        return None

    def write(self, run: Path) -> None:
        if self.path is not None:
            write_json(self.path, {"run": str(run), "arguments": self.arguments})

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
