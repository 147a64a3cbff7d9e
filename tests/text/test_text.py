"""Text: the encoder gives the same vectors whatever runs beside a caption; poolers read tokens, not padding."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from t2i.data.shapes_captions import COLOUR_WORDS
from t2i.errors import UserError
from t2i.text import encoders
from t2i.text.encoders import load_encoder
from t2i.text.frozen import pad_tokens
from t2i.text.minilm import MINILM_SHA256, Linear, bundled_minilm
from t2i.text.pooler import (
    CONDITIONINGS,
    AttentionPooler,
    Conditioning,
    SentencePooler,
    TextBatch,
    TextStatistics,
    sentence_vector,
)

CAPTIONS = ["a table", "a red circle on a white background", "two dogs", "a"]


@pytest.fixture(scope="module")
def minilm():
    return load_encoder()


def test_bundled_minilm_is_the_one_we_know(minilm):
    assert minilm.describe() == {"name": "minilm", "sha256": MINILM_SHA256, "width": 384, "max_tokens": 128}


TRICKY = [
    *CAPTIONS, "", "   ", "Café naïve, ÜBER-cool; 東京の犬 🐶🏳️‍🌈", "don't (stop)!!! ...", "x" * 300, "word " * 400,
    "[CLS] a [SEP] [MASK] [PAD] [UNK]", "a\x00b\u200bc\tline\r\nbreak", "½ ² ﬁ Å", "supercalifragilisticexpialidocious",
]  # fmt: skip


def test_minilm_is_what_transformers_makes_of_the_same_files(minilm):
    theirs = encoders.HubEncoder("theirs", bundled_minilm())
    theirs.max_tokens = minilm.max_tokens
    ids = minilm.token_ids(TRICKY)
    assert ids == theirs.token_ids(TRICKY)
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    with torch.inference_mode():
        ours, expected = minilm.hidden(padded, mask), theirs.hidden(padded, mask)
    assert (ours - expected)[mask.bool()].abs().max() < 1e-5
    for a, b in zip(minilm.encode(TRICKY), theirs.encode(TRICKY)):
        np.testing.assert_allclose(a.astype(float), b.astype(float), atol=4e-3)  # a last bit of half precision


@pytest.mark.parametrize("quick", sorted({False, Linear.quick}))
def test_a_linear_layer_is_torchs_own_however_it_is_computed(quick, monkeypatch):
    monkeypatch.setattr(Linear, "quick", quick)
    torch.manual_seed(0)
    for c_in, c_out in ((384, 384), (384, 1536), (1536, 384)):
        layer, x = Linear(c_in, c_out), torch.randn(8, 11, c_in)
        with torch.inference_mode():
            torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)
            wide = layer.double()(x.double())  # of another format it is torch's own
            torch.testing.assert_close(layer.float()(x).double(), wide, rtol=1e-5, atol=1e-5)


def test_minilm_imports_no_transformers():
    code = "import sys; from t2i.text.encoders import load_encoder; load_encoder().encode(['a']); "
    code += "print([name for name in ('transformers', 'scipy', 'torchvision') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_sentence_vector_of_minilm_means_what_it_should(minilm):
    vectors = sentence_vector(minilm.encode_batch(["a puppy", "a young dog", "a tax form"]).to("cpu"))
    closeness = vectors @ vectors.T
    assert closeness[0, 1] > 0.5 > 0.2 > closeness[0, 2]


def test_order_and_company_hardly_change_an_embedding(minilm):
    together, alone = minilm.encode(CAPTIONS), [minilm.encode([caption])[0] for caption in CAPTIONS]
    for a, b in zip(together, alone):
        assert a.dtype == np.float16
        assert a.shape == b.shape
        np.testing.assert_allclose(a.astype(float), b.astype(float), atol=4e-3)


def test_a_prompt_encodes_to_the_same_bits_in_any_batch(minilm):
    captions = [*CAPTIONS, *(f"a {colour} heart" for colour in COLOUR_WORDS), CAPTIONS[0]]  # more than a group
    batch = minilm.encode_batch(captions)
    for row, caption in enumerate(captions):
        alone = minilm.encode_batch([caption])
        length = alone.mask.shape[1]
        assert torch.equal(batch.tokens[row, :length], alone.tokens[0])
        assert batch.mask[row].sum() == length


def test_captions_with_words_that_an_encoder_does_not_know_are_counted(minilm, tiny_bert):
    for encoder, known in ((minilm, "a crimson puppy"), (load_encoder(str(tiny_bert)), "a red circle")):
        before = encoder.unknown
        one, other, _ = encoder.encode(["\U0001f34e", "\U0001f697", known])
        assert np.array_equal(one, other)
        assert encoder.unknown == before + 2


def test_long_captions_are_cut_the_same_way_and_counted(minilm):
    before = minilm.truncated
    long = "a very long caption " * 300
    first, second = minilm.encode([long])[0], minilm.encode([long + "with another end"])[0]
    assert minilm.truncated == before + 2
    assert len(first) == minilm.max_tokens
    assert np.array_equal(first, second)


def test_any_hugging_face_folder_is_an_encoder(tiny_bert):
    encoder = load_encoder(str(tiny_bert))
    assert (encoder.width, encoder.max_tokens) == (16, 12)
    (tokens,) = encoder.encode(["a red circle"])
    assert tokens.shape == (5, 16)
    assert load_encoder(str(tiny_bert)).sha256 == encoder.sha256


def test_a_caption_without_a_token_has_one(tiny_bert):
    encoder = load_encoder(str(tiny_bert))

    class WithoutSpecialTokens:
        unk_token_id, eos_token_id = None, 1

        def __call__(self, texts, **_):
            return {"input_ids": [[] if text == "\u200b" else [5] for text in texts]}

    encoder.tokenizer = WithoutSpecialTokens()
    assert encoder.token_ids(["red", "\u200b"]) == [[5], [1]]
    assert torch.isfinite(encoder.encode_batch(["\u200b"]).tokens).all()
    encoder.tokenizer.eos_token_id = None
    with pytest.raises(UserError, match="finds no token"):
        encoder.token_ids(["\u200b"])


def test_clip_and_t5_use_their_text_half(tmp_path, tiny_bert):
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    small = CLIPTextConfig(vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                           num_attention_heads=2, max_position_embeddings=12, projection_dim=16)  # fmt: skip
    t5 = T5Config(vocab_size=20, d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
    for name, model in (("clip", CLIPTextModel(small)), ("t5", T5EncoderModel(t5))):
        folder = tmp_path / name
        model.save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_bytes((tiny_bert / file).read_bytes())
        assert load_encoder(str(folder)).encode(["a red circle"])[0].shape == (5, 16)


def test_no_code_of_an_encoders_folder_is_ever_run(tiny_bert, tmp_path, monkeypatch):
    """Neither unasked nor by a question that a script's stdin answers."""
    folder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass OwnConfig: pass\n")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    with pytest.raises(UserError, match="cannot load the text encoder"):
        load_encoder(str(folder))
    assert not asked and not (tmp_path / "ran").exists()


def test_encoder_that_is_none_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such thing"}))
    with pytest.raises(UserError, match="cannot load the text encoder") as caught:
        load_encoder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_changed_minilm_is_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(encoders, "bundled_minilm", lambda: tmp_path)
    with pytest.raises(UserError, match="is not the MiniLM"):
        load_encoder()


def test_pad_tokens_fills_with_zeros():
    batch = pad_tokens([np.ones((2, 4), np.float16), np.ones((5, 4), np.float16)])
    assert batch.tokens.shape == (2, 5, 4)
    assert batch.mask.sum(1).tolist() == [2, 5]
    assert batch.tokens[0, 2:].abs().sum() == 0


# ---- poolers ----


def text_batch(count=3, length=6, width=8):
    mask = torch.ones(count, length, dtype=torch.bool)
    mask[0, 4:] = False
    return TextBatch(torch.randn(count, length, width), mask)


@pytest.mark.parametrize("kind", CONDITIONINGS)
def test_pooler_ignores_padding(kind):
    pooler, text = Conditioning(TextStatistics.identity(8), kind).pooler(), text_batch()
    changed = text.tokens.clone()
    changed[0, 4:] = 99
    torch.testing.assert_close(pooler(TextBatch(changed, text.mask)), pooler(text))


def test_attention_pooler_is_the_formula():
    pooler, text = AttentionPooler(TextStatistics.identity(8), queries=2, query_width=4), text_batch(1)
    tokens = text.tokens[0, :4]
    expected = []
    for query in pooler.query:
        weights = torch.softmax(pooler.key(tokens) @ query / 2, dim=0)
        expected.append(weights @ pooler.value(tokens))
    torch.testing.assert_close(pooler(text)[0], torch.cat(expected))
    assert AttentionPooler(TextStatistics.identity(8)).out_width == 8 * 48


def test_poolers_standardise_with_the_statistics_they_carry():
    text = text_batch()
    shifted = TextBatch(text.tokens * 3 + 5, text.mask)
    plain = AttentionPooler(TextStatistics.identity(8))
    scaled = AttentionPooler(TextStatistics(torch.full((8,), 5.0), torch.full((8,), 3.0), *[torch.ones(8)] * 2))
    scaled.load_state_dict({**plain.state_dict(), "mean": scaled.mean, "std": scaled.std})
    torch.testing.assert_close(scaled(shifted), plain(text), rtol=1e-4, atol=1e-5)
    sentence = SentencePooler(TextStatistics(*[torch.zeros(8)] * 2, torch.full((8,), 0.1), torch.full((8,), 0.2)))
    torch.testing.assert_close(sentence(text), (sentence_vector(text) - 0.1) / 0.2)


def test_attention_is_computed_in_fp32_under_autocast():
    pooler, text = AttentionPooler(TextStatistics.identity(8)), text_batch()
    with torch.autocast("cpu", torch.bfloat16):
        half = pooler(text)
    torch.testing.assert_close(half.float(), pooler(text), rtol=0.05, atol=0.05)
