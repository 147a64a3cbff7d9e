"""The vocabulary of the text encoder that is trained: the same in every process, whatever the text."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shape_captions import CAPTIONS, PROMPTS, in_another_process

from t2i.errors import UsageError, UserError
from t2i.text.tokenizer import PAD_ID, UNK_ID, CaptionTokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return CaptionTokenizer.train(CAPTIONS)


TRAIN = """
import json, sys
from t2i.text.tokenizer import CaptionTokenizer
made = CaptionTokenizer.train(json.load(open(sys.argv[1])))
made.save(sys.argv[2])
print(made.sha256)
"""
ENCODE = """
import json, sys
from t2i.text.tokenizer import CaptionTokenizer
print(json.dumps([row.tolist() for row in CaptionTokenizer.load(sys.argv[1]).encode(sys.argv[2:])]))
"""


def test_the_same_captions_make_the_same_file_in_every_process(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "here.json")
    for number, seed in enumerate(("0", "1", "4242")):
        captions = random.Random(number).sample(CAPTIONS, len(CAPTIONS)) + CAPTIONS[: 100 * number]
        (tmp_path / "captions.json").write_text(json.dumps(captions))
        printed = in_another_process(
            TRAIN, tmp_path / "captions.json", tmp_path / "there.json", PYTHONHASHSEED=seed,
            RAYON_NUM_THREADS=str(number + 1),
        )  # fmt: skip
        assert printed.strip() == tokenizer.sha256
        assert (tmp_path / "there.json").read_bytes() == (tmp_path / "here.json").read_bytes()


def test_a_word_has_the_same_id_in_another_process_and_in_any_caption(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    here = [row.tolist() for row in tokenizer.encode(PROMPTS)]
    for seed in ("0", "7"):
        there = in_another_process(ENCODE, tmp_path / "tokenizer.json", *PROMPTS, PYTHONHASHSEED=seed)
        assert json.loads(there) == here
    assert [row.tolist() for row in tokenizer.encode(PROMPTS[::-1])] == here[::-1]
    (red,) = tokenizer.encode(["red"])
    assert len(red) == 1
    for text in ("Red!", "a (red) circle", "it is red", "red-coloured", '"RED"', "ｒｅｄ"):
        assert red[0] in tokenizer.encode([text])[0], text


def test_case_width_and_white_space_do_not_matter(tokenizer):
    plain, *others = tokenizer.encode(["a red disc", "  A RED\tdisc\n", "ａ red\u3000disc", "a  red\u00a0Disc"])
    assert all(np.array_equal(plain, other) for other in others)


def test_a_word_never_seen_is_pieces_and_not_unknown(tokenizer):
    for text in ("xylophone", "日本語", "🦓", "\x00", "naïve", "[UNK]", "[PAD] a red circle"):
        (row,) = tokenizer.encode([text])
        assert UNK_ID not in row and PAD_ID not in row
    first, second = tokenizer.encode(["xylophone", "xylophones"])
    assert not np.array_equal(first, second)


def test_a_caption_without_words_is_one_unknown_token(tokenizer):
    for row in tokenizer.encode(["", " \n "]):
        assert row.tolist() == [UNK_ID]
        assert row.dtype == np.int32


def test_long_captions_are_cut_the_same_way_and_counted():
    tokenizer = CaptionTokenizer.train(CAPTIONS, max_tokens=5)
    long, longer, fits = tokenizer.encode(["red " * 6, "red " * 6000 + "blue", "red " * 5])
    assert tokenizer.truncated == 2
    assert len(long) == 5
    assert np.array_equal(long, longer) and np.array_equal(long, fits)


def test_vocabulary_is_no_larger_than_asked_or_than_the_data_gives(tokenizer):
    assert 300 < tokenizer.vocabulary_size < 1000
    assert CaptionTokenizer.train(CAPTIONS, vocabulary=300).vocabulary_size == 300
    assert CaptionTokenizer.train(["a"]).vocabulary_size == 258
    for wrong in ({"vocabulary": 257}, {"max_tokens": 0}):
        with pytest.raises(UsageError):
            CaptionTokenizer.train(CAPTIONS, **wrong)


def test_a_saved_vocabulary_is_the_same_one(tokenizer, tmp_path):
    for name in ("once.json", "twice.json"):
        tokenizer.save(tmp_path / name)
        tokenizer = CaptionTokenizer.load(tmp_path / name)
    assert (tmp_path / "once.json").read_bytes() == (tmp_path / "twice.json").read_bytes()
    assert tokenizer.max_tokens == 100
    assert tokenizer.encode(["[PAD]"])[0][0] != PAD_ID


def changed(name, value):
    return lambda text: json.dumps({**json.loads(text), name: value})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2], lambda text: "", lambda text: "[]", lambda text: "{}",
        changed("normalizer", None), changed("pre_tokenizer", {"type": "Whitespace"}), changed("truncation", None),
        changed("added_tokens", []), changed("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
        lambda text: text.replace('"!":2,', ""), lambda text: text.replace('"!":2,', '"!":900000,'),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_tokenizer_is_refused_in_one_line(damage, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text(
        damage((tmp_path / "tokenizer.json").read_text(encoding="utf-8")), encoding="utf-8"
    )
    with pytest.raises(UserError, match="not a tokenizer of t2i") as caught:
        CaptionTokenizer.load(tmp_path / "tokenizer.json")
    assert "\n" not in str(caught.value)


def test_an_absent_or_binary_tokenizer_is_refused_in_one_line(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent", tmp_path / "binary", tmp_path):
        with pytest.raises(UserError):
            CaptionTokenizer.load(path)


@settings(max_examples=50)
@given(st.lists(st.text(max_size=200), max_size=4))
def test_any_text_has_ids(captions):
    tokenizer = CaptionTokenizer.train(["a red circle", "a red disc"], max_tokens=20)
    for row in tokenizer.encode(captions):
        assert 1 <= len(row) <= 20
        assert row.min() > PAD_ID and row.max() < tokenizer.vocabulary_size
