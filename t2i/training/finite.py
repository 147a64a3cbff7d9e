"""No step writes NaN: the check of the gradients before each one, which a GPU is not made to wait for."""

import math

import torch
from torch import Tensor

from t2i.errors import UserError
from t2i.training.objective import Phase
from t2i.training.statistics import Statistics

LEAST_SCALE = 1.0  # of the loss, in fp16: it begins at 65,536, from where 17 steps that overflow bring it below


class NotFinite(UserError):
    """A gradient is NaN or infinite, or in fp16 goes on to be."""


class GradientCheck:
    """Looks at each phase's gradients before its optimiser steps, and logs their norm.

    late: the verdict stays on the device and tells the fused optimiser whether to step; the host reads it a step later,
    when it is long there, so that neither waits for the other, or when asked to `settle`. Else it is read at once.
    """

    def __init__(self, statistics: Statistics, late: bool):
        self.statistics, self.late = statistics, late
        self._unread: dict[str, tuple[Tensor, torch.cuda.Event | None, int, bool]] = {}

    def look(self, phase: Phase, images_seen: int, scaler: torch.amp.GradScaler) -> None:
        """Raises NotFinite, naming the losses; the weights are then as they were before the step.

        A scaler that is enabled (fp16) skips a step that overflows, and halves the scale of the loss. It may do so
        while the scale is LEAST_SCALE or more: below it, it is not the scale that makes gradients overflow.
        """
        gradients = [p.grad for p in phase.module.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        broken = (~norm.isfinite()).float()
        self.statistics.add(f"gradient_{phase.name.lower()}", norm.nan_to_num(0.0, 0.0, 0.0), left_out=broken)
        scaled = scaler.is_enabled()
        verdict = norm
        if scaled:  # that of a step that did not overflow says nothing
            verdict = scaler.scale(torch.ones_like(norm)).masked_fill(norm.isfinite(), math.inf)
        if not self.late:
            self._judge(phase.name, float(verdict), images_seen, scaled)
            return
        if not scaled:  # where this is 1 the fused kernels leave weights and moments alone
            phase.optimizer.found_inf = broken
        self._read(phase.name)
        self._unread[phase.name] = *send_home(verdict), images_seen, scaled

    def settle(self) -> None:
        """Read what is unread, before what the steps have made is kept. Raises NotFinite."""
        for name in list(self._unread):
            self._read(name)

    def _read(self, name: str) -> None:
        if before := self._unread.pop(name, None):
            verdict, arrived, images_seen, scaled = before
            if arrived:
                arrived.synchronize()
            self._judge(name, float(verdict.numpy()), images_seen, scaled)

    def forget(self) -> None:
        """What was not read yet: the networks have gone back to before it."""
        self._unread.clear()

    def _judge(self, phase: str, verdict: float, images_seen: int, scaled: bool) -> None:
        """verdict: the norm of the gradient, or, scaled, the scale of a loss whose gradient overflows."""
        if verdict >= LEAST_SCALE if scaled else math.isfinite(verdict):
            return
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self.statistics.read().items())
        what = f"overflows in fp16 at a loss scale of {verdict:g}" if scaled else f"is {verdict}"
        raise NotFinite(
            f"the gradient of phase {phase} {what} after {images_seen:,} images ({losses}); the last "
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
