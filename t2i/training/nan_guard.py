"""No step writes NaN: the gradients are checked before each one, without making a GPU wait."""

import math

import torch
from torch import Tensor, nn

from t2i.errors import UserError
from t2i.training.statistics import Statistics

LEAST_SCALE = 1.0  # of the loss, in fp16: it begins at 65,536, from where 17 steps that overflow bring it below


class NotFinite(UserError):
    """A gradient is NaN or infinite, or in fp16 goes on to be."""


class NanGuard:
    """Checks each phase's gradients before its optimiser steps, and logs their norm.

    late: the verdict stays on the device and tells the fused optimiser whether to step; the host reads it a step later,
    when it is long there, or at `flush`. Else it is read at once.
    """

    def __init__(self, statistics: Statistics, late: bool):
        self.statistics, self.late = statistics, late
        self._deferred: dict[str, tuple[Tensor, torch.cuda.Event | None, int, bool]] = {}

    def check(
        self,
        phase: str,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        images_seen: int,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """Raises NotFinite, naming the losses; the weights are then as they were before the step.

        A scaler that is enabled (fp16) skips a step that overflows, and halves the scale of the loss. It may do so
        while the scale is LEAST_SCALE or more: below it, it is not the scale that makes gradients overflow.
        """
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        broken = (~norm.isfinite()).float()
        self.statistics.add(f"gradient_{phase.lower()}", norm.nan_to_num(0.0, 0.0, 0.0), left_out=broken)
        scaled = scaler.is_enabled()
        verdict = norm
        if scaled:  # that of a step that did not overflow says nothing
            verdict = scaler.scale(torch.ones_like(norm)).masked_fill(norm.isfinite(), math.inf)
        if not self.late:
            self._judge(phase, float(verdict), images_seen, scaled)
            return
        if not scaled:  # where this is 1 the fused kernels leave weights and moments alone
            optimizer.found_inf = broken  # type: ignore[attr-defined]  # torch declares it nowhere
        self._read(phase)
        self._deferred[phase] = *copy_to_host(verdict), images_seen, scaled

    def flush(self) -> None:
        """Read the deferred verdicts, before what the steps have made is kept. Raises NotFinite."""
        for name in list(self._deferred):
            self._read(name)

    def clear(self) -> None:
        """Forget the deferred verdicts: the networks were restored to before them."""
        self._deferred.clear()

    def _read(self, name: str) -> None:
        if deferred := self._deferred.pop(name, None):
            verdict, arrived, images_seen, scaled = deferred
            if arrived:
                arrived.synchronize()
            self._judge(name, float(verdict.numpy()), images_seen, scaled)

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


def copy_to_host(value: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A device's tensor on its way to the CPU, and the event of its arrival; None where it was there."""
    if value.device.type != "cuda":
        return value.clone(), None
    host = torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
