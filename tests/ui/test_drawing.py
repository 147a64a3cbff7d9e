"""The page's first tab without the page: it draws what `generate` draws, and says which command does."""

import shlex
from pathlib import Path

import pytest

from t2i.errors import UserError
from t2i.image_files import read_image_text
from t2i.ui.drawing import MAX_IMAGES, Models, between, draw, next_seeds

pytestmark = pytest.mark.usefixtures("one_encoder")


def nothing(line):
    raise AssertionError(line)


@pytest.fixture
def models(tiny_run, tmp_path):
    return Models("cpu", tmp_path, tiny_run.parent)


def test_the_same_pixels_and_text_as_generate_by_the_command_that_is_shown(here, t2i, tiny_run, models):
    drawn = draw(models, str(tiny_run), "a red circle\n\n a table ", "0-1, 7", 0.7, nothing)
    assert [caption for _, caption in drawn.files][:2] == ["a red circle, 0", "a red circle, 1"]
    command = shlex.split(drawn.command)
    assert command[:2] == ["t2i", "generate"]
    t2i(*command[1:], "-o", "own")
    for number, (path, _) in enumerate(drawn.files):
        assert Path(path).read_bytes() == Path(f"own/{number:03d}.png").read_bytes()
    assert read_image_text(drawn.files[-1][0])["seed"] == "7"


def test_the_same_film_as_sample_grid(here, t2i, tiny_run, models):
    drawn = between(models, f"{tiny_run}@32", ("a table", "a red circle"), "3,5", 4, 1.0, nothing)
    ((path, _),) = drawn.files
    t2i(*shlex.split(drawn.command)[1:])
    assert Path(path).read_bytes() == (here / "a-table-to-a-red-circle.gif").read_bytes()


def test_models_are_listed_newest_first_and_read_again_when_they_change(models, tiny_run):
    names = models.names()
    assert names[:3] == [str(tiny_run), f"{tiny_run}@48", f"{tiny_run}@32"] and names[-1] == "emoji"
    assert Models("cpu", models.files, tiny_run.parent, first="mine").names()[0] == "mine"
    assert models.load(str(tiny_run)) is models.load(f"{tiny_run}@48") is not models.load(f"{tiny_run}@32")


def test_others_may_not_name_a_folder(tiny_run, tiny_model, tmp_path):
    models = Models("cpu", tmp_path, tiny_run.parent, any_folder=False)
    assert models.load(str(tiny_run)).resolution == 16
    with pytest.raises(UserError, match="not one of this page's models"):
        models.load(str(tiny_model))


@pytest.mark.parametrize(
    "prompts, seeds, truncation, said",
    [
        (" \n", "0", 1.0, "no prompt"), ("a", "x", 1.0, "write numbers and ranges"), ("a", "", 1.0, "write numbers"),
        ("a", "0", float("nan"), "give a number"), ("a", "0-100", 1.0, f"the page draws {MAX_IMAGES}"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_one_line(models, tiny_run, prompts, seeds, truncation, said):
    with pytest.raises(UserError, match=said):
        draw(models, str(tiny_run), prompts, seeds, truncation, nothing)


@pytest.mark.parametrize("name", ["", "nowhere", "emoji@9"])
def test_a_model_that_is_not_there_is_one_line(here, models, name):
    with pytest.raises(UserError):
        draw(models, name, "a", "0", 1.0, nothing)


def test_words_that_the_encoder_does_not_know_are_said(models, tiny_run):
    said = []
    draw(models, str(tiny_run), "\u1c50", "0", 1.0, said.append)
    assert len(said) == 1 and "does not know" in said[0]


@pytest.mark.parametrize("seeds, later", [("0-3", "4-7"), ("5", "6"), ("0-1,9", "10-12")])
def test_next_seeds(seeds, later):
    assert next_seeds(seeds) == later
