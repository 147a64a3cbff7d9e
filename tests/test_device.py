"""Which device a name means; copies to it: which of them may be under way when their call returns."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from t2i.device import copies_in_background, make_current, mixed_precision, pick_device, send
from t2i.errors import UsageError
from t2i.text.pooler import TextBatch


@pytest.mark.parametrize("name, current", [("cuda:1", ["cuda:1"]), ("cuda", []), ("cpu", [])])
def test_a_gpu_that_is_named_by_its_number_is_the_current_one(name, current, monkeypatch):
    """CUDA graphs are recorded on the current device: on another one they would hold nothing."""
    made = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append(str(device)))
    make_current(torch.device(name))
    assert made == current


@pytest.mark.parametrize("name, listed", [("nonsense", "auto or cpu"), ("mps", "auto or cpu"), ("cpu", "auto")])
def test_a_device_that_is_not_there_is_not_recommended(name, listed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    def refuse(*size, device):
        raise RuntimeError("no such device")

    monkeypatch.setattr(torch, "zeros", refuse)
    with pytest.raises(UsageError, match=f"--device {name}: not available on this machine; try {listed}$"):
        pick_device(name)


@pytest.mark.parametrize("device, background", [("cuda", True), ("cuda:1", True), ("mps", False), ("cpu", False)])
def test_on_cuda_alone_a_copy_is_not_waited_for(device, background):
    assert copies_in_background(device) == copies_in_background(torch.device(device)) == background


class Copies(TorchDispatchMode):
    """Notes, of each copy to another device or type, whether it is waited for."""

    def __init__(self):
        super().__init__()
        self.waited = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == "_to_copy":
            self.waited.append(not (kwargs or {}).get("non_blocking", False))
        return func(*args, **(kwargs or {}))


def test_images_and_captions_on_another_device_are_waited_for():
    captions = TextBatch(torch.zeros(2, 3, 4, dtype=torch.float16), torch.ones(2, 3, dtype=torch.bool))
    with Copies() as copies:
        send(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), "meta")
        captions.to("meta")
    assert copies.waited == [True, True, True]


@pytest.mark.parametrize(
    "name, quick, chosen",
    [
        ("cuda", True, "bf16"),
        ("cuda", False, "fp16"),
        ("cpu", True, "bf16"),
        ("cpu", False, "fp32"),
        ("mps", False, "fp32"),
    ],
)
def test_mixed_precision_is_what_the_device_computes_in(name, quick, chosen, monkeypatch):
    monkeypatch.setattr("t2i.device.has_quick_bf16", lambda device: quick)
    assert mixed_precision(torch.device(name)) == chosen
