"""No step writes NaN: the check of the gradients before each one, which a GPU is not made to wait for."""

import math

import torch
from torch import Tensor

from t2i.errors import UserError
from t2i.training.objective import Phase
from t2i.training.statistics import Statistics


class NotFinite(UserError):
    """A gradient is NaN or infinite."""


class GradientCheck:
    """Looks at each phase's gradients before its optimiser steps, and logs their norm.

    late: the verdict stays on the device and tells the fused optimiser whether to step; the host reads it a step later,
    when it is long there, so that neither waits for the other. Else it is read at once.
    """

    def __init__(self, statistics: Statistics, late: bool):
        self.statistics, self.late = statistics, late
        self._unread: dict[str, tuple[Tensor, torch.cuda.Event | None, int]] = {}

    def look(self, phase: Phase, images_seen: int, tolerate: bool = False) -> None:
        """Raises NotFinite, naming the losses; the weights are then as they were before the step.

        tolerate: the loss is scaled (fp16): the scaler skips such a step and lowers the scale.
        """
        gradients = [p.grad for p in phase.module.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        self.statistics.add(f"gradient_{phase.name.lower()}", norm.nan_to_num(0.0, 0.0, 0.0))
        if tolerate:
            return
        if not self.late:
            self._judge(phase, float(norm), images_seen)
            return
        # Where this is 1 the fused kernels leave weights and moments alone.
        phase.optimizer.found_inf = (~norm.isfinite()).float()
        if before := self._unread.pop(phase.name, None):
            value, arrived, when = before
            if arrived:
                arrived.synchronize()
            self._judge(phase, float(value.numpy()), when)
        self._unread[phase.name] = *send_home(norm), images_seen

    def forget(self) -> None:
        """What was not read yet: the networks have gone back to before it."""
        self._unread.clear()

    def _judge(self, phase: Phase, norm: float, images_seen: int) -> None:
        if math.isfinite(norm):
            return
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self.statistics.read().items())
        raise NotFinite(
            f"the gradient of phase {phase.name} is {norm} after {images_seen:,} images ({losses}); the last "
            "checkpoint is good: lower --lr-g and --lr-d, or train with --precision fp32"
        )


def send_home(value: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A device's tensor on its way to the CPU, and what says that it has arrived; None where it was there."""
    if value.device.type != "cuda":
        return value.clone(), None
    home = torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return home, arrived
