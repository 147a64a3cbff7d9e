"""The command line, images: generate, sample-grid, info."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.image_files import read_image_text
from t2i.version import __version__

PYTHON = [sys.executable, "-m", "t2i"]
pytestmark = pytest.mark.usefixtures("one_encoder")


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# ---- generate --------------------------------------------------------------------------------------------------


def test_a_prompt_and_seed_give_the_same_bytes_alone_in_company_and_in_another_process(here, t2i, tiny_run, tiny_model):
    other = subprocess.Popen(
        [*PYTHON, "generate", "a red circle", "--seed", "5", "--model", tiny_run, "-o", "other.png"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    t2i("generate", "a red circle", "--seed", "5", "--model", tiny_run, "-o", "alone.png")
    alone = Path("alone.png").read_bytes()
    t2i("generate", "a table", "a red circle", "a much longer prompt of a chair and nine green apples on it",
        "--seed", "5", "--model", tiny_run, "-o", "many.png")  # fmt: skip
    assert Path("many-001.png").read_bytes() == alone
    t2i("generate", "a red circle", "--seeds", "0-3,5,9", "--model", f"{tiny_run}@0048", "-o", "seeds")
    assert Path("seeds/004.png").read_bytes() == alone
    t2i("generate", "a red circle", "--seed", "3", "--num", "4", "--model", tiny_model, "-o", "num")
    assert Path("num/002.png").read_bytes() == alone
    Path("prompts.txt").write_text("a table\n\n  a red circle \n")
    t2i("generate", "--prompts", "prompts.txt", "--seed", "5", "--model", tiny_run, "-o", "file")
    assert Path("file/001.png").read_bytes() == alone
    out, err = other.communicate(timeout=600)
    assert (other.returncode, out, err) == (0, "wrote other.png: seed 5; --seed 6 draws another\n", "")
    assert Path("other.png").read_bytes() == alone


def test_seeds_prompts_and_truncation_change_the_image(here, t2i, tiny_run):
    t2i("generate", "a table", "--seeds", "0,1", "--model", tiny_run, "-o", "a.png")
    t2i("generate", "a table", "--seeds", "0,1", "--truncation", "0", "--model", tiny_run, "-o", "b.png")
    assert (pixels("a-000.png") != pixels("a-001.png")).any()
    assert (pixels("b-000.png") == pixels("b-001.png")).all()


def test_how_images_are_named(here, t2i, tiny_run):
    def names() -> list[str]:
        found = sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file())
        for path in here.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found

    t2i("generate", "a", "--model", tiny_run)
    assert names() == ["out.png"]
    for name in ("out.png", "out-4.png", "out-x.png", "out-5.jpg"):
        Path(name).write_text("mine")
    assert t2i("generate", "a", "--model", tiny_run).startswith("wrote out-5.png")
    t2i("generate", "a", "--num", "2", "--model", tiny_run)
    assert Path("out.png").read_text() == "mine"
    assert names() == ["out-4.png", "out-5.jpg", "out-5.png", "out-6.png", "out-7.png", "out-x.png", "out.png"]
    Path("out.png").write_text("mine")
    t2i("generate", "a", "--model", tiny_run, "-o", "out.png")  # a name that was given is taken
    assert pixels("out.png").shape == (16, 16, 3) and names() == ["out.png"]
    t2i("generate", "a", "b", "--model", tiny_run, "-o", "deep/er/x.jpg")
    assert names() == ["deep/er/x-000.jpg", "deep/er/x-001.jpg"]
    t2i("generate", "a", "--model", tiny_run, "-o", "images")
    assert names() == ["images/000.png"]
    (here / "dotted.d").mkdir()
    t2i("generate", "a", "--num", "2", "--model", tiny_run, "-o", "dotted.d")
    assert names() == ["dotted.d/000.png", "dotted.d/001.png"]
    t2i("generate", "a", "--model", tiny_run, "-o", "v1.0/")
    assert names() == ["v1.0/000.png"]
    report = json.loads(t2i("generate", "a", "b", "--seeds", "3-4", "--model", tiny_run, "-o", "x.webp", "--json"))
    assert [(entry["prompt"], entry["seed"]) for entry in report] == [("a", 3), ("a", 4), ("b", 3), ("b", 4)]
    assert [entry["path"] for entry in report] == names()


@pytest.mark.slow
def test_an_image_or_a_sheet_goes_to_stdout(here, tiny_run):
    def printed(*arguments: str) -> bytes:
        command = [*PYTHON, "generate", *arguments, "--model", tiny_run, "-o", "-"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    Path("one.png").write_bytes(printed("a red circle", "--seed", "5"))
    Path("sheet.png").write_bytes(printed("a red circle", "a table", "--num", "3"))
    assert read_image_text("one.png")["seed"] == "5" and pixels("one.png").shape == (16, 16, 3)
    assert read_image_text("sheet.png")["seeds"] == "0,1,2" and pixels("sheet.png").shape[1] > 3 * 128
    assert sorted(path.name for path in here.iterdir()) == ["one.png", "sheet.png"]


def test_stdout_is_for_the_image_alone(here, refused, tiny_run, monkeypatch):
    refused(2, "-o - excludes --json", "generate", "a", "--model", tiny_run, "-o", "-", "--json")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    refused(2, "-o - prints a PNG file: redirect it", "generate", "a", "--model", tiny_run, "-o", "-")


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.webp"])
def test_an_image_says_how_it_was_made(t2i, tiny_run, tiny_model, name):
    t2i("generate", "ein Tisch, größer als drei", "--seed", "7", "--model", tiny_run, "-o", name)
    facts = json.loads(t2i("info", name, "--json"))
    model = json.loads(t2i("info", tiny_model, "--json"))
    assert facts == {
        "kind": "image",
        "path": name,
        "prompt": "ein Tisch, größer als drei",
        "seed": "7",
        "truncation_psi": "1",
        "model": f"dfgan sha256:{model['sha256']}",
        "software": f"t2i {__version__}",
    }
    assert model["sha256"] in t2i("info", name)  # not cut to the width of a terminal


# ---- sample-grid -----------------------------------------------------------------------------------------------


@pytest.fixture
def cells(monkeypatch):
    """The images that the next grids are made of, [rows][columns], before they are enlarged and labelled."""
    from t2i import grids

    seen = []
    table_grid = grids.table_grid
    monkeypatch.setattr(
        grids, "table_grid", lambda rows, *rest: (seen.append((rows, *rest)), table_grid(rows, *rest))[1]
    )
    return seen


def test_the_cells_of_a_grid_are_the_images_of_generate(here, t2i, tiny_run, cells):
    t2i("sample-grid", "a table", "a red circle", "a chair", "--seeds", "1,4", "--model", tiny_run, "-o", "grid.png")
    t2i("generate", "a table", "a red circle", "a chair", "--seeds", "1,4", "--model", tiny_run, "-o", "one")
    (rows, labels, columns, _), = cells  # fmt: skip
    assert (labels, columns) == (["a table", "a red circle", "a chair"], ["seed 1", "seed 4"])
    samples = [image for row in rows for image in row]
    assert len(samples) == 6
    assert all((image == pixels(f"one/{number:03d}.png")).all() for number, image in enumerate(samples))
    # The sheet shows them, each pixel enlarged to 8 x 8.
    sheet, image = pixels("grid.png"), samples[5].repeat(8, axis=0).repeat(8, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet[:, :, 0], (8, 8))[:, :, 0, 0]
    places = np.argwhere(windows == image[0, 0, 0])
    assert any(np.array_equal(sheet[y : y + 128, x : x + 128], image) for y, x in places)


def test_an_interpolation_starts_and_ends_at_its_prompts(here, t2i, tiny_run, cells):
    said = t2i("sample-grid", "--interpolate", "a table", "a red circle", "--cols", "3", "--rows", "2",
               "--model", tiny_run, "-o", "grid.png")  # fmt: skip
    assert said == "wrote grid.png (2 x 3 images)\n"
    t2i("generate", "a table", "a red circle", "--seeds", "0,1", "--model", tiny_run, "-o", "one")
    (rows, labels, columns, _), = cells  # fmt: skip
    assert (labels, columns) == (["seed 0", "seed 1"], ["0%", "50%", "100%"])
    for seed in range(2):
        assert (rows[seed][0] == pixels(f"one/00{seed}.png")).all()
        assert (rows[seed][2] == pixels(f"one/00{seed + 2}.png")).all()
        assert (rows[seed][1] != rows[seed][0]).any() and (rows[seed][1] != rows[seed][2]).any()
    assert json.loads(t2i("info", "grid.png", "--json"))["prompt"] == "a table | a red circle"


def test_a_truncation_sweep_has_a_column_for_each_truncation(here, t2i, tiny_run, cells):
    t2i("sample-grid", "a table", "--truncation-sweep", "--seeds", "2", "--model", tiny_run, "-o", "grid.png")
    t2i("generate", "a table", "--seed", "2", "--truncation", "0.5", "--model", tiny_run, "-o", "half.png")
    t2i("generate", "a table", "--seed", "2", "--model", tiny_run, "-o", "whole.png")
    (rows, _, columns, _), = cells  # fmt: skip
    assert columns == ["psi 0", "psi 0.25", "psi 0.5", "psi 0.75", "psi 1", "psi 1.25"]
    assert (rows[0][2] == pixels("half.png")).all() and (rows[0][4] == pixels("whole.png")).all()
    facts = json.loads(t2i("info", "grid.png", "--json"))
    assert (facts["seeds"], facts["truncation_psi"]) == ("2", "0,0.25,0.5,0.75,1,1.25")


def test_styles_are_mixed_of_the_seeds_that_were_asked_for(here, t2i, cells):
    t2i("sample-grid", "an apple", "--style-mixing", "--seeds", "5,6", "--rows", "2", "--model", "emoji")
    t2i("sample-grid", "an apple", "--style-mixing", "--cols", "2", "--rows", "1", "--model", "emoji", "-o", "few.png")
    t2i("generate", "an apple", "--seeds", "5,6,0", "--model", "emoji", "-o", "one")
    (rows, labels, columns, _), (_, _, others, _) = cells
    assert labels == ["fine styles", "coarse: seed 0", "coarse: seed 1"] and columns == ["", "seed 5", "seed 6"]
    for image, number in ((rows[0][1], 0), (rows[0][2], 1), (rows[1][0], 2)):
        assert (image == pixels(f"one/00{number}.png")).all()
    assert json.loads(t2i("info", "grid.png", "--json"))["seeds"] == "0,1,5,6"
    assert others == ["", "seed 2", "seed 3"]  # left out, they are other ones than the rows'


def test_a_grid_without_prompts_shows_training_captions(here, t2i, tiny_run, tiny_model, cells):
    t2i("sample-grid", "--cols", "2", "--rows", "3", "--model", tiny_run)
    known = json.loads((tiny_model / "model_index.json").read_text())["training"]["prompts"]
    assert cells[0][1] == known[:3]


# ---- info ------------------------------------------------------------------------------------------------------


def test_info_knows_every_kind_of_folder(t2i, minilm_data, tiny_run, tiny_model):
    checkpoint = tiny_run / "checkpoints" / "000000048"
    paths = {"prepared data set": minilm_data, "run": tiny_run, "checkpoint": checkpoint, "model": tiny_model}
    facts = {kind: json.loads(t2i("info", path, "--json")) for kind, path in paths.items()}
    assert {kind: found["kind"] for kind, found in facts.items()} == {kind: kind for kind in paths}
    assert facts["prepared data set"]["pictures"] == 48
    assert facts["run"]["checkpoints"] == "000000032, 000000048" and facts["run"]["images_seen"] == 48
    assert facts["run"]["snapshots"] == "0, 16, 32, 48"
    assert facts["checkpoint"]["images_seen"] == 48
    assert facts["model"]["architecture"] == "dfgan" and facts["model"]["resolution"] == 16
    for kind, path in paths.items():
        assert t2i("info", path).startswith(f"{path}: {kind}\n")
    for name in (tiny_run / "checkpoints" / "000000016", f"{tiny_run}@16"):  # a snapshot of which the model stays
        facts = json.loads(t2i("info", name, "--json"))
        assert (facts["kind"], facts["images_seen"]) == ("model", 16)


def test_prompts_and_paths_are_shown_as_they_are(here, t2i):
    assert (
        t2i("generate", ":pizza:", "--model", "emoji", "-o", ":x:.png")
        == "wrote :x:.png: seed 0; --seed 1 draws another\n"
    )
    assert ":pizza:" in t2i("info", ":x:.png")
