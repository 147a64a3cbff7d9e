"""A convolution with fast second derivatives, for gradient penalties.

A gradient penalty differentiates a network's gradient. torch then computes the weight's gradient as a convolution with
the batch in place of the channels and a kernel as large as the image: the slowest operation of a step. It is an
ordinary weight gradient: for y = w * x, with the input's gradient gx(gy, w), a gradient g of gx gives w the gradient of
a convolution with input g and output gradient gy. So each of output, gx and gw is a function here whose derivatives are
the other two, as in the training code of StyleGAN2-ADA (Karras et al. 2020).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_twice = False
_inputs_only = False


@contextlib.contextmanager
def differentiated_twice() -> Iterator[None]:
    """Inside, conv2d has fast second derivatives; a penalty's forward pass runs here.

    Outside it is torch's convolution, whose first derivatives are slightly faster.
    """
    global _twice
    before, _twice = _twice, True
    try:
        yield
    finally:
        _twice = before


def is_differentiated_twice() -> bool:
    """Whether the caller runs inside differentiated_twice()."""
    return _twice


@contextlib.contextmanager
def inputs_only() -> Iterator[None]:
    """For torch.autograd.grad with respect to images: weights get no gradient.

    torch cannot skip unneeded gradients of a custom autograd function.
    """
    global _inputs_only
    before, _inputs_only = _inputs_only, True
    try:
        yield
    finally:
        _inputs_only = before


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """F.conv2d; see differentiated_twice. The same values and derivatives of every order."""
    if not (_twice and torch.is_grad_enabled()):
        return F.conv2d(x, weight, bias, stride, padding)
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype is not torch.float64:
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _Convolution.apply(x, weight, bias, stride, padding)


def upsampling_conv3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.conv2d(upsampled, weight, bias, padding=1) of x [B, c_in, h, w] with each pixel repeated, [B, c_out, 2h, 2w].

    Of the 9 pixels under a kernel [c_out, c_in, 3, 3] only 4 differ. With their weights summed it is a transposed
    convolution of stride 2 with 4/9 of the products.
    """
    weight = F.pad(weight.flip(2, 3), (1, 1, 1, 1))  # [c_out, c_in, 5, 5]
    weight = weight[:, :, 1:] + weight[:, :, :-1]
    weight = weight[..., 1:] + weight[..., :-1]  # [c_out, c_in, 4, 4]
    return F.conv_transpose2d(x, weight.transpose(0, 1), bias, stride=2, padding=1)


class Conv2d(nn.Conv2d):
    """nn.Conv2d by conv2d; square kernels, one stride and one padding for both directions, no groups."""

    padding: tuple[int, ...]  # never a string

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0])


class _Convolution(torch.autograd.Function):
    """x [B, c_in, h, w], weight [c_out, c_in, k, k] -> [B, c_out, h', w']."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.shape, ctx.geometry = x.shape, (stride, padding)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        if _inputs_only:
            needs_weight = needs_bias = False
        grad_x = _InputGradient.apply(grad, weight, ctx.shape, *ctx.geometry) if needs_x else None
        grad_weight = _WeightGradient.apply(x, grad, weight, *ctx.geometry) if needs_weight else None
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if needs_bias else None, None, None


class _InputGradient(torch.autograd.Function):
    """The gradient of an input x of this shape, for the output gradient `grad`."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, weight)
        ctx.geometry = stride, padding
        return _gradients(grad, _like(grad, shape), weight, stride, padding, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> tuple[Tensor | None, ...]:
        grad, weight = ctx.saved_tensors
        needs_grad, needs_weight = ctx.needs_input_grad[:2]
        return (
            _Convolution.apply(second, weight, None, *ctx.geometry) if needs_grad else None,
            _WeightGradient.apply(second, grad, weight, *ctx.geometry) if needs_weight else None,
            None,
            None,
            None,
        )


class _WeightGradient(torch.autograd.Function):
    """The gradient of the weight, for the output gradient `grad`; only the shape of `weight` is used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, grad)
        ctx.geometry = stride, padding
        return _gradients(grad, x, weight, stride, padding, (False, True))[1]

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> tuple[Tensor | None, ...]:
        x, grad = ctx.saved_tensors
        needs_x, needs_grad = ctx.needs_input_grad[:2]
        return (
            _InputGradient.apply(grad, second, x.shape, *ctx.geometry) if needs_x else None,
            _Convolution.apply(x, second, None, *ctx.geometry) if needs_grad else None,
            None,
            None,
            None,
        )


def _like(x: Tensor, shape: torch.Size) -> Tensor:
    """A placeholder of which only the shape is used."""
    return x.new_empty(()).expand(shape)


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """torch's first derivatives of a convolution."""
    pair = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *pair, [*wanted, False])[:2]
