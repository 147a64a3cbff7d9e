"""The counterparts of the original scripts' calls."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from t2i import (
    COCODataset,
    ImageLabelDataset,
    generate_image_from_text,
    get_loader,
    get_networks,
    train_fn,
)
from t2i.compat import default_transform
from t2i.errors import UserError
from t2i.models.growing import Growth
from t2i.training.trainer import Trainer

WIDTH = 24


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """12 images in images/, two captions each in labels/, and the same as COCO annotations."""
    root = tmp_path_factory.mktemp("original")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    images, annotations = [], []
    for number in range(12):
        Image.new("RGB", (40, 30), (20 * number, 255 - 20 * number, 99)).save(root / "images" / f"p{number:02d}.png")
        captions = [f"image {number}", f"the colour of {number}"]
        (root / "labels" / f"p{number:02d}.txt").write_text("\n".join(captions))
        images.append({"id": number, "file_name": f"p{number:02d}.png", "width": 40, "height": 30})
        annotations += [{"id": len(annotations), "image_id": number, "caption": captions[0]}]
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return root


@pytest.fixture
def dataset(folders, hash_encoder):
    return ImageLabelDataset(
        folders / "images", folders / "labels", encode_label_fn=lambda text: hash_encoder.encode([text])[0]
    )


def test_image_label_dataset_pairs_images_with_their_captions(dataset, hash_encoder):
    assert len(dataset) == 12
    captions = set()
    for _ in range(40):
        image, caption, tokens = dataset[3]
        captions.add(caption)
        assert np.array_equal(tokens, hash_encoder.encode([caption])[0])
    assert captions == {"image 3", "the colour of 3"}
    assert (image.shape, image.dtype) == ((3, 64, 64), torch.float32)
    assert torch.allclose(image[:, 30, 30], torch.tensor([60, 195, 99]) / 127.5 - 1, atol=0.01)


def test_a_transform_of_ones_own(folders, hash_encoder):
    own = ImageLabelDataset(
        folders / "images", folders / "labels", lambda image: torch.tensor(image.size), lambda text: text.upper()
    )
    image, caption, label = own[0]
    assert image.tolist() == [40, 30] and label == caption.upper()


def test_coco_dataset_encodes_with_the_bundled_encoder(folders):
    coco = COCODataset(folders / "images", folders / "captions.json")
    image, caption, tokens = coco[5]
    assert (len(coco), caption, image.shape) == (12, "image 5", (3, 64, 64))
    assert tokens.dtype == np.float16 and tokens.shape[1] == 384


def test_datasets_of_nothing_raise_one_line(folders, tmp_path):
    with pytest.raises(UserError, match="missing"):
        ImageLabelDataset(folders / "images", tmp_path / "missing")
    with pytest.raises(UserError, match="no images"):
        ImageLabelDataset(tmp_path, folders / "labels")
    with pytest.raises(UserError, match=r"none\.json"):
        COCODataset(folders / "images", tmp_path / "none.json")


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "a.txt").write_text("a caption")
    with pytest.raises(UserError, match=r"a\.png: not an image: it starts with b'no image'; take it out, or "):
        ImageLabelDataset(tmp_path, tmp_path)[0]
    Image.new("RGB", (99, 99)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    with pytest.raises(UserError, match=r"a\.png: truncated") as caught:
        ImageLabelDataset(tmp_path, tmp_path)[0]
    assert "\n" not in str(caught.value)


def test_images_are_decoded_as_prepare_does_it(tmp_path):
    ramp = np.linspace(0, 65535, 30 * 40).reshape(30, 40).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    see_through = np.zeros((30, 40, 4), np.uint8)
    see_through[10:20, 10:20] = (0, 0, 255, 255)
    Image.fromarray(see_through).save(tmp_path / "logo.png")
    turned = Image.new("RGB", (40, 30), "red")
    turned.paste("blue", (0, 0, 20, 30))
    exif = turned.getexif()
    exif[0x0112] = 6  # the left side is the top
    turned.save(tmp_path / "photo.png", exif=exif)
    for name in ("grey", "logo", "photo"):
        (tmp_path / f"{name}.txt").write_text("a caption")

    data = ImageLabelDataset(tmp_path, tmp_path, lambda image: (image.mode, np.asarray(image)), lambda text: text)
    (grey_mode, grey), (_, logo), (_, photo) = (data[index][0] for index in range(3))
    assert grey_mode == "RGB" and np.array_equal(grey[..., 0], np.rint(ramp / 257))
    assert logo[0, 0].tolist() == [255] * 3 and logo[15, 15].tolist() == [0, 0, 255]
    assert photo.shape == (40, 30, 3) and photo[0, 15, 2] == 255 == photo[39, 15, 0]


def test_get_loader_shuffles_images_captions_and_tokens_together(dataset, hash_encoder):
    batches = list(get_loader(dataset, 5))
    assert [len(captions) for _, captions, _ in batches] == [5, 5]  # the rest of 2 is dropped
    images, captions, text = batches[0]
    assert images.shape == (5, 3, 64, 64) and text.tokens.shape[::2] == (5, WIDTH)
    for row, caption in enumerate(captions):
        expected = hash_encoder.encode([caption])[0].astype(np.float32)
        assert np.array_equal(text.tokens[row][text.mask[row]].numpy(), expected)
    assert len(next(iter(get_loader(dataset, 99)))[1]) == 12  # a set smaller than a batch is one batch


def test_a_notebooks_own_seed_decides_the_networks_and_all_after_them():
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        networks = get_networks("dfgan", resolution=16, width=WIDTH, nf=4)
        found.append([*(p for network in networks for p in network.parameters()), torch.rand(3)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_train_fn_trains_both_networks_and_moves_alpha_to_1_over_half_the_data(dataset):
    dataset.transform = default_transform(16)
    gen, critic = get_networks("dfgan", resolution=16, width=WIDTH, nf=4)
    optimizers = [torch.optim.Adam(network.parameters(), 1e-3) for network in (critic, gen)]
    before = [[p.detach().clone() for p in network.parameters()] for network in (critic, gen)]
    loader = list(get_loader(dataset, 3))
    alpha = train_fn(critic, gen, loader[:1], dataset, 0, 0.0, *optimizers)
    assert alpha == pytest.approx(3 / 6)  # a quarter of the data
    assert train_fn(critic, gen, loader[1:2], dataset, 0, alpha, *optimizers) == pytest.approx(1.0)
    assert train_fn(critic, gen, loader, dataset, 1, alpha, *optimizers) == 1.0
    for network, old in zip((critic, gen), before):
        moved = [not torch.equal(p, q) for p, q in zip(network.parameters(), old)]
        assert sum(moved) > len(moved) / 2
        assert all(p.isfinite().all() for p in network.parameters())


def test_train_fn_grows_a_stylegan_by_step_and_alpha(dataset, monkeypatch):
    dataset.transform = default_transform(16)
    narrow = {"z_dim": 8, "w_dim": 16, "mapping_layers": 2, "fmap_base": 16, "fmap_max": 8}
    gen, critic = get_networks("stylegan", resolution=16, width=WIDTH, **narrow)
    plans, take = [], Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, plan, *given: plans.append(plan) or take(self, plan, *given))
    optimizers = [torch.optim.Adam(network.parameters(), 1e-3) for network in (critic, gen)]
    loader = list(get_loader(dataset, 4))
    alpha = train_fn(critic, gen, loader[:1], dataset, 0, 0.0, *optimizers)
    assert (gen.growth, critic.growth) == (Growth(4), Growth(4))  # the default stage
    train_fn(critic, gen, loader[:1], dataset, 1, 0.25, *optimizers)
    assert gen.growth == Growth(8, 0.25)
    assert train_fn(critic, gen, loader[:1], dataset, 2, alpha, *optimizers) == 1.0
    assert [plan.growth for plan in plans] == [Growth(4), Growth(8, 0.25), Growth(16, alpha)]
    assert all(p.isfinite().all() for network in (gen, critic) for p in network.parameters())


def test_generate_image_from_text(tiny_run, tmp_path, monkeypatch):
    image = generate_image_from_text("a table", tiny_run, seed=3)
    assert image.size == (16, 16)
    monkeypatch.chdir(tmp_path)
    assert generate_image_from_text("a table").size == (128, 128)  # no run here: the built-in model
    (tmp_path / "runs").symlink_to(tiny_run.parent)
    newest = generate_image_from_text("a table", seed=3)
    assert np.array_equal(np.asarray(newest), np.asarray(image))
