"""The page's scripts, run by node: noise as torch draws it, token ids as the library tokenizers finds them."""

import json
import shutil
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from shape_captions import CAPTIONS

import t2i.web
from t2i.export import tokenizer_json
from t2i.files import encodable
from t2i.tensors import noise_of_seed
from t2i.text.encoders import load_encoder
from t2i.text.tokenizer import CaptionTokenizer
from t2i.text.transformer import TrainedEncoder, TransformerEncoder

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node here: apt-get install nodejs")
PAGE = Path(t2i.web.__file__).parent / "page"
UNICODE = unicodedata.ucd_3_2_0
# Later versions of Unicode class these differently, and the library tokenizers keeps to the earlier ones.
RECLASSED = {0x166D, 0x1734, 0x1885, 0x1886}
ODD = [
    "a red apple", "A RED Apple", "  two\tspaces \n and lines ", "naïve café", "Ça coûte 5 €", "ΟΔΥΣΣΕΥΣ", "İstanbul",
    "Straße",
    "猫と犬", "一只红色的苹果", "한국어 문장", "עברית", "العَرَبِيَّة", "हिन्दी", "emoji 🍎🥰👩‍🚀🇯🇵", "👍🏽",
    "x" * 101, "x" * 100, "a-b_c/d.e,f!g?h",
    "don't", "$5.00 + 3 < 4 ^ `~|", "“quoted” — dashes…", "[PAD]", "a [MASK] b", "[CLS][SEP]",
    "[mask] [UNK]x", "[[SEP]]", "word " * 200,
    "\u200b", "\u00ad", "a\u200bb", "zero\x00byte", "\x1c\x1d", "a\x85b\xa0c\u3000d", "\ufeffa",
    "ﬁne ﬂour", "ｆｕｌｌ　ｗｉｄｔｈ",
    "½ ² ™", "é", "e\u0301",
    "q\u0323\u0307", "\ud800 half", "🧑🏿‍🦰", "unaffable", "##able", "0123456789", "3.14159", "ＡＢＣ", "\ufffd",
    "İ̇", "ǅ", "ß", "ſ", "\U0001f9ff",
]  # fmt: skip


def by_node(script, value):
    """The JSON that a module prints; it finds `value` in `given`."""
    script = f"const given = JSON.parse((await import('node:fs')).readFileSync(0)); {script}"
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", script], input=json.dumps(value).encode(), capture_output=True, check=True
    )
    return json.loads(done.stdout)


def ids_by_node(encoder, prompts):
    """Ids of each prompt, cleaned as the pipeline does it; [] for an empty one."""
    script = f"""
        const {{ clean, readTokenizer }} = await import("{(PAGE / "tokenizer.js").as_uri()}");
        const read = readTokenizer(JSON.parse(given.tokenizer));
        const one = (prompt) => (clean(prompt) ? read(clean(prompt)).ids : []);
        console.log(JSON.stringify(given.prompts.map(one)));"""
    return by_node(script, {"tokenizer": tokenizer_json(encoder), "prompts": prompts})


def assert_same_ids(encoder, prompts):
    texts = [" ".join(encodable(prompt).split()) for prompt in prompts]
    if isinstance(encoder, TrainedEncoder):
        ours = [row.tolist() for row in encoder.tokenizer.encode(texts)]
    else:
        ours = encoder.token_ids(texts)
    theirs = ids_by_node(encoder, prompts)
    wrong = [p for p, text, a, b in zip(prompts, texts, ours, theirs) if (a if text else []) != b]
    assert len(theirs) == len(prompts) and wrong == []


@pytest.fixture(scope="module")
def minilm():
    return load_encoder("minilm")


@pytest.fixture(scope="module")
def trained():
    tokenizer = CaptionTokenizer.train([*CAPTIONS, *ODD, *ODD], vocabulary=500, max_tokens=30)
    return TrainedEncoder(TransformerEncoder(tokenizer.vocabulary_size, width=8, heads=2, layers=1), tokenizer)


def test_a_seed_has_torch_s_noise():
    cases = [(seed, width) for seed in (0, 1, 42, 2**31, 2**32 - 1) for width in (1, 7, 8, 15, 16, 17, 64, 100, 512)]
    script = f"""
        const {{ noiseOfSeed }} = await import("{(PAGE / "noise.js").as_uri()}");
        console.log(JSON.stringify(given.map(([seed, width]) => Array.from(noiseOfSeed(seed, width)))));"""
    for (seed, width), noise in zip(cases, by_node(script, cases)):
        assert len(noise) == width and (torch.tensor(noise) - noise_of_seed(seed, width)).abs().max() < 2e-6


@pytest.mark.parametrize("kind", ["minilm", "trained"])
def test_prompts_have_the_ids_of_the_pipeline(kind, request):
    mixed = [f"{a} {b}" for a, b in zip(ODD, reversed(ODD))]
    assert_same_ids(request.getfixturevalue(kind), [*ODD, *mixed, *(text.upper() for text in ODD), *CAPTIONS[:200]])


@pytest.mark.parametrize("kind", ["minilm", "trained"])
def test_random_strings_of_them_do_too(kind, request):
    letters = sorted({letter for text in ODD for letter in text} - {"\ud800"})
    random = np.random.default_rng(0)
    prompts = ["".join(random.choice(letters, random.integers(1, 20))) for _ in range(300)]
    assert_same_ids(request.getfixturevalue(kind), prompts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["minilm", "trained"])
def test_every_character_of_unicode_3_2_is_read_alike(kind, request):
    characters = [
        chr(code) for code in range(1, 0x30000)
        if UNICODE.category(chr(code)) not in ("Cn", "Cs", "Co") and code not in RECLASSED
    ]  # fmt: skip
    assert len(characters) > 80_000  # Chinese and Korean ones, mostly
    assert_same_ids(request.getfixturevalue(kind), [f"a{character}b" for character in characters])
