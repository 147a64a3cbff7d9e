"""The networks whose features scores compare: their input, and FID's Inception."""

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image

from t2i.errors import UserError
from t2i.evaluation import inception
from t2i.evaluation.features import load_lite2, resize
from t2i.models.features import read_weights

# ---- resizing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 300])
def test_resizing_is_pillow_s_bicubic_without_its_rounding(size):
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    # Channel by channel as floats Pillow neither rounds nor clips.
    channels = [Image.fromarray(image[:, :, c].astype(np.float32)) for c in range(3)]
    theirs = np.stack([np.asarray(c.resize((260, 260), Image.Resampling.BICUBIC)) for c in channels], axis=2)
    found = resize(torch.from_numpy(image)[None], 260)[0].permute(1, 2, 0).numpy()
    assert found.shape == (260, 260, 3) and theirs.min() < 0
    assert np.abs(found - theirs.clip(0, 255)).max() < 0.01


def test_features_do_not_depend_on_the_batch():
    network = load_lite2()
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    whole = network(images)
    assert whole.shape == (5, 1280) and whole.dtype == np.float32
    assert np.allclose(network(images[4:]), whole[4:], atol=1e-4)
    assert network.label == "EfficientNet-Lite2 9656183e"


# ---- Inception -------------------------------------------------------------------------------------------------


def test_the_inception_of_fid_is_torchvision_s_with_its_three_changes(inception_weights, monkeypatch):
    theirs = torchvision.models.inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
    theirs.load_state_dict(read_weights(inception_weights), strict=False)
    theirs.fc = torch.nn.Identity()
    average = torch.nn.functional.avg_pool2d

    def average_without_padding(x, kernel_size, stride=None, padding=0):
        if x.shape[1] == 2048:  # into the last block, and nowhere else
            return torch.nn.functional.max_pool2d(x, kernel_size, stride, padding)
        return average(x, kernel_size, stride, padding, count_include_pad=False)

    monkeypatch.setattr(torchvision.models.inception.F, "avg_pool2d", average_without_padding)
    images = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        expected = theirs.eval()((images - 128) / 128)
        monkeypatch.undo()
        found = inception.load_inception(inception_weights).forward(images)
    assert found.shape == (1, 2048) and found.std() > 0.01
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_inception_weights_come_as_safetensors_too_and_say_that_they_are_unknown(inception_weights, tmp_path):
    path = tmp_path / "inception.safetensors"
    safetensors.torch.save_file(read_weights(inception_weights), path)
    network = inception.load_inception(path)
    assert network.label.startswith("Inception-v3 of unknown weights ") and network.width == 2048


@pytest.mark.parametrize("change", ["lacks", "strange", "shape"])
def test_other_weights_are_refused(inception_weights, tmp_path, change):
    weights = read_weights(inception_weights)
    if change == "lacks":
        del weights["Mixed_5b.branch1x1.conv.weight"]
    elif change == "strange":
        weights["AuxLogits.fc.weight"] = torch.zeros(1)
    else:
        weights["Conv2d_1a_3x3.conv.weight"] = torch.zeros(1)
    path = tmp_path / "other.pth"
    torch.save(weights, path)
    with pytest.raises(UserError, match=r"not the Inception-v3 of FID \((lacks|has) \S+"):
        inception.load_inception(path)
