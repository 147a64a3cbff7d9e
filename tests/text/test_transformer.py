"""The text encoder trained with the GAN: its network, its folder, and the loss that teaches it."""

import json
import math
import random

import numpy as np
import pytest
import torch
from shape_captions import CAPTIONS, PROMPTS, RECORDS, in_another_process
from small import networks
from torch import nn

from t2i.data.shapes import BACKGROUNDS, COLOURS, SHAPES, SIZES
from t2i.data.sources.shapes import ShapesSource
from t2i.errors import UserError
from t2i.losses.contrastive import ContrastiveHead, contrastive_loss
from t2i.models.folder import ModelDescription
from t2i.pipeline import TextToImagePipeline
from t2i.tensors import hash_tensors, load_tensors, save_tensors
from t2i.text.pooler import AttentionPooler, TextBatch, TextStatistics
from t2i.text.tokenizer import PAD_ID, CaptionTokenizer
from t2i.text.transformer import (
    TrainedEncoder,
    TransformerEncoder,
    load_text_encoder,
    pad_ids,
    save_text_encoder,
    sinusoids,
)

SMALL = {"width": 16, "layers": 2, "heads": 2, "feed_forward": 32}


@pytest.fixture(scope="module")
def tokenizer():
    return CaptionTokenizer.train(CAPTIONS)


@pytest.fixture
def encoder(tokenizer):
    torch.manual_seed(0)
    return TransformerEncoder(tokenizer.vocabulary_size, **SMALL)


def text_ids(tokenizer, captions=PROMPTS):
    return pad_ids(tokenizer.encode(captions))


# ---- network ----


def test_defaults_are_the_published_size():
    encoder = TransformerEncoder(300)
    assert encoder.config == {"vocabulary": 300, "width": 256, "layers": 6, "heads": 8, "feed_forward": 2048,
                              "max_tokens": 100, "dropout": 0.1}  # fmt: skip
    assert TransformerEncoder(**encoder.config).config == encoder.config
    assert encoder.embedding.weight[PAD_ID].abs().sum() == 0


@pytest.mark.parametrize("wrong", [{"width": 30, "heads": 4}, {"width": 15, "heads": 3}, {"dropout": 1.0}])
def test_settings_that_do_not_fit_each_other_are_refused(wrong):
    with pytest.raises(ValueError):
        TransformerEncoder(300, **wrong)


def test_positions_are_the_formula():
    table = sinusoids(10, 8)
    for position, channel in ((0, 0), (3, 2), (9, 6)):
        angle = position / 10000 ** (channel / 8)
        assert table[position, channel].item() == pytest.approx(math.sin(angle), abs=1e-5)
        assert table[position, channel + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_a_block_is_the_transformer_layer_of_pytorch(encoder):
    block = encoder.blocks[0]
    theirs = nn.TransformerEncoderLayer(16, 2, 32, dropout=0, activation="gelu", batch_first=True, norm_first=True)
    ours = block.state_dict()
    theirs.load_state_dict({
        "self_attn.in_proj_weight": ours["attention.qkv.weight"], "self_attn.in_proj_bias": torch.zeros(48),
        "self_attn.out_proj.weight": ours["attention.out.weight"], "self_attn.out_proj.bias": torch.randn(16),
        "linear1.weight": ours["expand.weight"], "linear1.bias": ours["expand.bias"],
        "linear2.weight": ours["contract.weight"], "linear2.bias": ours["contract.bias"],
        **{key: ours[key] for key in ours if key.startswith("norm")},
    })  # fmt: skip
    block.attention.out.bias.data.copy_(theirs.self_attn.out_proj.bias)
    x, mask = torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool)
    mask[0, 3:] = False
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(block(x, mask[:, None, None, :])[mask], expected[mask])


def test_padding_changes_nothing_whatever_is_written_there(tokenizer, encoder):
    together = text_ids(tokenizer)
    strange = together.tokens.masked_fill(~together.mask, 10**9)
    out = encoder(TextBatch(strange, together.mask))
    assert out.tokens.dtype == torch.float32
    for row, prompt in enumerate(PROMPTS):
        alone = encoder(text_ids(tokenizer, [prompt])).tokens[0]
        torch.testing.assert_close(out.tokens[row, : len(alone)], alone)


def test_word_order_is_seen(tokenizer, encoder):
    text = encoder(text_ids(tokenizer, ["a red circle left of a blue square", "a blue square left of a red circle"]))
    torch.manual_seed(0)
    one, other = AttentionPooler(TextStatistics.identity(16))(text)
    assert (one - other).norm() > 0.05 * one.norm()


def test_dropout_takes_its_numbers_from_the_caller_only(tokenizer, encoder):
    ids = text_ids(tokenizer)
    numbers = torch.rand(3, encoder.dropout_numbers)
    before = torch.get_rng_state()
    first, second, none = (encoder.train()(ids, given).tokens for given in (numbers, numbers, None))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.allclose(first, none)
    torch.testing.assert_close(encoder(ids, torch.full_like(numbers, 0.99)).tokens, encoder_scaled(encoder, ids))
    assert TransformerEncoder(300, **SMALL, dropout=0).dropout_numbers == 0


def encoder_scaled(encoder, ids):
    """What dropout gives where it happens to drop nothing: every sub-layer, and the input, over 1 - p."""
    keep = 1 / (1 - encoder.dropout)
    x = keep * (encoder.embedding(ids.tokens) * 4 + sinusoids(ids.tokens.shape[1], 16))
    for block in encoder.blocks:
        x = block(x, ids.mask[:, None, None, :], [keep, keep])
    return encoder.norm(x)


def test_dropout_drops_whole_channels_of_a_caption(tokenizer, encoder):
    ids = text_ids(tokenizer)
    numbers = torch.ones(3, 5, 16)
    numbers[1, 0, 7] = 0.05  # the input's channel 7 of the second caption
    embedded = []
    encoder.blocks[0].register_forward_pre_hook(lambda _, inputs: embedded.append(inputs[0]))
    encoder(ids, numbers.flatten(1))
    zero = (embedded[0] == 0).all(1)  # over all tokens
    assert zero.nonzero().tolist() == [[1, 7]]


def test_attention_and_norms_are_computed_in_fp32_under_autocast(tokenizer, encoder):
    ids = text_ids(tokenizer)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(ids).tokens
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, encoder(ids).tokens, rtol=0.05, atol=0.05)


class Toy(nn.Module):
    """Encoder, pooler and head, and made-up image features in place of a discriminator's."""

    def __init__(self, encoder, channels=32):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = encoder
        self.pooler = AttentionPooler(TextStatistics.identity(encoder.width))
        self.head = ContrastiveHead(channels, self.pooler.out_width)
        self.vectors = {name: torch.randn(channels) for name in (*COLOURS, *SHAPES, *SIZES, *BACKGROUNDS)}

    def features(self, records):
        """[B, C, 4, 4]: the sum of what is in the scene, with noise on every pixel."""
        names = [
            [r.image.scene.background, *(n for i in r.image.scene.items for n in (i.colour, i.shape, i.size))]
            for r in records
        ]
        means = torch.stack([sum(self.vectors[name] for name in found) for found in names])[:, :, None, None]
        noise = torch.randn(len(records), means.shape[1], 4, 4, generator=torch.Generator().manual_seed(len(records)))
        return means + noise

    def logits(self, features, ids, numbers=None):
        return self.head(features, self.pooler(self.encoder(ids, numbers)))

    def loss(self, features, ids, numbers=None):
        return contrastive_loss(self.logits(features, ids, numbers))


def test_micro_batches_give_the_gradients_of_the_whole_batch(tokenizer, encoder):
    toy = Toy(encoder)
    records = RECORDS[:16]
    features, ids = toy.features(records), text_ids(tokenizer, [record.captions[0] for record in records])
    numbers = torch.rand(16, encoder.dropout_numbers)
    toy.loss(features, ids, numbers).mean().backward()
    whole = {name: parameter.grad.clone() for name, parameter in toy.named_parameters()}
    toy.zero_grad()
    for rows in (slice(0, 8), slice(8, 16)):
        # A piece has its own images, and the captions of all.
        logits = toy.logits(features[rows], ids, numbers)
        (contrastive_loss(logits, torch.arange(16)[rows]).mean() * 0.5).backward()
    for name, parameter in toy.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-6, msg=name)


def test_one_step_moves_every_weight_of_the_encoder_but_the_padding(tokenizer, encoder):
    toy = Toy(encoder)
    ids = text_ids(tokenizer, CAPTIONS[0:48:3])
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.Adam(toy.parameters(), lr=1e-3)
    toy.loss(toy.features(RECORDS[:16]), ids).mean().backward()
    optimizer.step()
    for name, value in encoder.state_dict().items():
        moved = value != before[name]
        if name == "embedding.weight":
            used = ids.tokens[ids.mask].unique()
            assert not moved[PAD_ID].any()
            moved = moved[used]
        assert moved.all(), name


@pytest.mark.slow
def test_the_encoder_learns_to_tell_captions_apart(tokenizer):
    """Only the encoder is trained: neither the pooler nor the head can do its work for it."""
    torch.manual_seed(0)
    toy = Toy(TransformerEncoder(tokenizer.vocabulary_size, width=48, layers=2, heads=4, feed_forward=96))
    test_records = [ShapesSource(2000).record(index) for index in range(1000, 1256)]
    features = toy.features(test_records)
    ids = text_ids(tokenizer, [record.captions[0] for record in test_records])

    @torch.no_grad()
    def found():
        """How often an image's own caption is the closest of eight: 0.125 by chance."""
        logits = toy.logits(features, ids).unflatten(0, (-1, 8)).unflatten(2, (-1, 8))  # [32, 8, 32, 8]
        eights = logits.diagonal(dim1=0, dim2=2)  # [8 images, 8 captions, 32]
        return (eights.argmax(1) == torch.arange(8)[:, None]).float().mean().item()

    assert found() < 0.3
    optimizer = torch.optim.Adam(toy.encoder.parameters(), lr=2e-3, betas=(0.0, 0.99))
    choose = random.Random(0)
    for _ in range(120):
        records = choose.choices(RECORDS, k=32)
        numbers = torch.rand(32, toy.encoder.dropout_numbers)
        texts = text_ids(tokenizer, [choose.choice(record.captions) for record in records])
        optimizer.zero_grad()
        toy.loss(toy.features(records), texts, numbers).mean().backward()
        optimizer.step()
    assert found() > 0.8


# ---- folder ----

EMBED = """
import sys, torch, numpy as np
torch.set_num_threads(1)
from t2i.text.transformer import TrainedEncoder, load_text_encoder
encoder = TrainedEncoder(*load_text_encoder(sys.argv[1]))
np.save(sys.argv[2], encoder.encode_batch(sys.argv[3:]).tokens.numpy())
print(encoder.sha256)
"""


@pytest.mark.slow
def test_a_new_process_gives_the_same_embeddings(tokenizer, encoder, tmp_path):
    here = TrainedEncoder(encoder, tokenizer)
    save_text_encoder(tmp_path, encoder, tokenizer)
    files = sorted(path.name for path in (tmp_path / "text_encoder").iterdir())
    assert files == ["config.json", "model.safetensors", "tokenizer.json"]
    digest = in_another_process(EMBED, tmp_path, tmp_path / "there.npy", *PROMPTS, PYTHONHASHSEED="5").strip()
    assert digest == here.sha256
    assert np.array_equal(np.load(tmp_path / "there.npy"), here.encode_batch(PROMPTS).tokens.numpy())


def test_a_loaded_encoder_can_be_trained_on_and_draws_no_random_numbers(tokenizer, encoder, tmp_path):
    save_text_encoder(tmp_path, encoder, tokenizer)
    before = torch.get_rng_state()
    loaded, vocabulary = load_text_encoder(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.config == encoder.config
    toy = Toy(loaded)
    toy.loss(toy.features(RECORDS[:3]), text_ids(vocabulary)).mean().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def rewrite_config(**values):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return damage


def rewrite_weights(change):
    def damage(folder):
        tensors = load_tensors(folder / "model.safetensors")
        change(tensors)
        save_tensors(folder / "model.safetensors", tensors)

    return damage


def other_vocabulary(folder):
    CaptionTokenizer.train(CAPTIONS[:300]).save(folder / "tokenizer.json")


@pytest.mark.parametrize(
    "damage",
    [
        rewrite_config(kind="bert"), rewrite_config(format=2), rewrite_config(layers=3), rewrite_config(layers=10**9),
        rewrite_config(heads=0), rewrite_config(heads=3), rewrite_config(width="wide"), rewrite_config(dropout=1.5),
        rewrite_config(vocabulary=300), rewrite_config(max_tokens=50), rewrite_config(more=1),
        rewrite_config(width=2**19), rewrite_config(tokenizer_sha256=""),
        rewrite_weights(lambda tensors: tensors.pop("norm.bias")),
        rewrite_weights(lambda tensors: tensors.update(more=torch.zeros(1))),
        rewrite_weights(lambda tensors: tensors.update({"norm.bias": torch.zeros(17)})),
        rewrite_weights(lambda tensors: tensors.update({"norm.bias": torch.zeros(16).half()})),
        other_vocabulary,
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"no tensors"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "tokenizer.json").unlink(),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_folder_is_refused_in_one_line(damage, tokenizer, encoder, tmp_path):
    save_text_encoder(tmp_path, encoder, tokenizer)
    damage(tmp_path / "text_encoder")
    with pytest.raises(UserError) as caught:
        load_text_encoder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_hash_of_tensors_is_that_of_their_names_shapes_and_values():
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2)}
    assert hash_tensors(tensors) == hash_tensors(dict(reversed(tensors.items())))
    for other in ({"a": torch.arange(6.0).view(2, 3)}, {"a": torch.arange(6.0) + 1}, {"b": torch.zeros(2)}):
        assert hash_tensors({**tensors, **other}) != hash_tensors(tensors)


# ---- as a pipeline uses it ----


def test_a_prompt_encodes_to_the_same_bits_in_any_batch(tokenizer, encoder):
    trained = TrainedEncoder(encoder, tokenizer)
    batch = trained.encode_batch([*PROMPTS, PROMPTS[0]])
    assert batch.tokens.dtype == torch.float32 and not batch.tokens.requires_grad
    for row, prompt in enumerate([*PROMPTS, PROMPTS[0]]):
        alone = trained.encode_batch([prompt])
        assert torch.equal(batch.tokens[row][batch.mask[row]], alone.tokens[0])


def test_its_hash_follows_the_weights_and_long_prompts_are_cut(tokenizer, encoder):
    trained = TrainedEncoder(encoder, tokenizer)
    before = trained.describe()
    assert before == {"name": "transformer", "sha256": trained.sha256, "width": 16, "max_tokens": 100}
    encoder.norm.bias.data[0] += 1
    assert trained.sha256 != before["sha256"]
    cut = trained.truncated
    assert trained.encode_batch(["red " * 200]).mask.shape == (1, 100)
    assert trained.truncated == cut + 1
    trained.max_tokens = 7
    assert trained.encode_batch(["red " * 200]).mask.shape == (1, 7)


def test_a_pipeline_draws_with_it(tokenizer, encoder):
    trained = TrainedEncoder(encoder, tokenizer)
    generator, _ = networks("dfgan", width=16)
    description = ModelDescription("dfgan", 16, trained.describe(), {"conditioning": "attention"}, {})
    pipeline = TextToImagePipeline(generator, description, text_encoder=trained)
    images = pipeline(PROMPTS, seeds=[3], output_type="np").images
    assert images.shape == (3, 16, 16, 3)
    assert np.array_equal(pipeline(PROMPTS[1], seeds=[3], output_type="np").images[0], images[1])
