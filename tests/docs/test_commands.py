"""Every command of the manual: its options exist and its arguments parse, and what needs no other machine runs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from manual_pages import GUIDES, PAGES, ROOT, code_blocks, name
from PIL import Image
from shell_lines import LINES, ONLY_READ, arguments, inline

from t2i.cli import app, console, run

GROUP = typer.main.get_command(app)
WITH_T2I = [line.text for line in LINES if re.search(r"(^|-m )t2i \w", line.text) and "[" not in line.text]
INLINE = [text for page in PAGES for text in inline(page) if "|" not in text]


def parse(text: str) -> None:
    """Raises what the command line raises on a wrong call."""
    whole = console.take_arguments(arguments(text))
    if whole[0] in GROUP.commands:
        GROUP.commands[whole[0]].make_context(whole[0], whole[1:])


@pytest.mark.parametrize("text", sorted({*WITH_T2I, *INLINE}))
def test_a_command_parses(text):
    try:
        parse(text)
    except Exception as error:
        # In running text an argument may be left out: "t2i generate --text-encoder DIR".
        if not (text in INLINE and "Missing" in str(error)):
            raise


def test_a_wrong_option_is_seen():
    with pytest.raises(Exception, match="No such option"):
        parse("t2i train --no-such-option 3")


def test_every_reason_is_used():
    assert set(ONLY_READ.values()) == {line.reason for line in LINES if line.reason}


@pytest.mark.parametrize("text", sorted({line.text for line in LINES if re.match(r"python \w+/", line.text)}))
def test_the_options_of_a_script_exist(text):
    words = text.split()
    source = (ROOT / words[1]).read_text(encoding="utf-8")
    options = {word for word in re.sub(r'"[^"]*"', "", text).split() if word.startswith("--")}
    assert {option for option in options if f'"{option}"' not in source} == set()


# ---- they run ----------------------------------------------------------------------------------------------------

# In place of what would take hours.
SHORTER = {
    r"--minutes \d+": "--minutes 0.02",
    r"--checkpoint-minutes 0.02": "--checkpoint-minutes 10",
    r"google-bert/bert-base-uncased|my-bert": "BERT",
    r"path/to/coco|\bCOCO\b": "coco",
    r"/shared/": "shared/",
    r"--samples \d+": "--samples 100",
    r"--fraction 0\.1": "--fraction 0.4",
    r"--val-fraction 0\.05": "--val-fraction 0.45",
    r"-f0\.1": "-f0.4",
    r"RUN@120000": "RUN@128",
    r"t2i-data/photos-train-64 t2i-data/icons-train-64": "t2i-data/coco-train-16 t2i-data/coco-train-16",
}
TRAINS_ON = re.compile(r"^t2i train(?!.*--minutes)")
WITH_PROGRAMS = [page for page in GUIDES if any(kind == "python" for kind, _ in code_blocks(page))]
PAGES_THAT_RUN = sorted({line.page for line in LINES if line.reason is None})


@pytest.fixture
def workshop(here, tiny_bert):
    """A folder with what the manual's commands name: pics, fruit, a small COCO, a list of prompts, a run, a BERT."""
    for folder in ("pics", "images", "captions", "coco/train2017", "coco/val2017", "coco/annotations", "shared"):
        (here / folder).mkdir(parents=True)
    for number in range(12):
        image = Image.new("RGB", (96, 80), (number * 20, 90, 30))
        image.save(here / f"pics/{number}.png")
        image.save(here / f"images/{number}.png")
        for folder in ("pics", "captions"):
            (here / folder / f"{number}.txt").write_text(f"a table in colour {number}\n")
    noise = np.random.default_rng(0)
    for split, count in (("train", 300), ("val", 120)):  # scores need 100
        images, captions = [], []
        for number in range(count):
            file = f"{number:012d}.jpg"
            Image.fromarray(noise.integers(0, 256, (48, 64, 3), np.uint8)).save(here / f"coco/{split}2017/{file}")
            images.append({"id": number, "file_name": file, "width": 64, "height": 48})
            captions.append({"id": number, "image_id": number, "caption": f"a table with {number} apples"})
        document = json.dumps({"images": images, "annotations": captions})
        (here / f"coco/annotations/captions_{split}2017.json").write_text(document)
    (here / "fruit").mkdir()
    for number in range(240):
        Image.fromarray(noise.integers(0, 256, (24, 20, 3), np.uint8)).save(here / f"fruit/{number}.webp")
        (here / f"fruit/{number}.txt").write_text(f"a painting of {number} apples\n")
    (here / "list.txt").write_text("a red apple\na cat\n")
    shutil.copytree(tiny_bert, here / "BERT")
    return here


def prepare_for(page: Path) -> None:
    """What a page takes for granted: a run that is resumed or scored."""
    if name(page) in ("training.md", "drawing.md", "evaluation.md"):
        assert run(["prepare", "--coco", "coco", "--resolution", "16"]) == 0
        assert run(["prepare", "--coco", "coco", "--split", "val", "--resolution", "16"]) == 0
        train = "train t2i-data/coco-train-16 --kimg 0.1 --preset small --no-growing --out runs --device cpu"
        assert run(train.split()) == 0
        Path("runs/00000-stylegan2-coco-train-16").rename("RUN")
        shutil.copytree("RUN", "runs/00000-stylegan2-coco-train-16")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=name)
def test_the_commands_of_a_page_run(page, workshop, capfdbinary, one_encoder):
    prepare_for(page)
    for line in LINES:
        if line.page != page or line.reason:
            continue
        text = line.text
        for pattern, shorter in SHORTER.items():
            text = re.sub(pattern, shorter, text)
        if TRAINS_ON.search(text):
            text += " --minutes 0.02"
        code = run(arguments(text))
        assert code == 0, (text, capfdbinary.readouterr().err.decode())


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=name)
def test_the_programs_of_a_page_run(page, workshop, one_encoder):
    if name(page) == "evaluation.md":
        for split in ("train", "val"):
            assert run(["prepare", "--coco", "coco", "--split", split]) == 0
        train = "train t2i-data/coco-train-64 --kimg 0.03 --preset small --no-growing --device cpu"
        assert run(train.split()) == 0
    for kind, text in code_blocks(page):
        if kind == "python":
            exec(
                compile(text, name(page), "exec"),
                {"runs": ["runs/00000-stylegan2-coco-train-64"]} if name(page) == "evaluation.md" else {},
            )


@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=name)
def test_the_programs_of_a_page_compile(page):
    for kind, text in code_blocks(page):
        if kind == "python":
            compile(text, name(page), "exec")
