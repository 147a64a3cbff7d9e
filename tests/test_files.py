"""Files written whole, and texts as a user, a shell or JSON may see them."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hash_encoder import HashEncoder
from PIL import Image

from t2i.cli import run
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset
from t2i.data.sources import FolderPairSource
from t2i.data.sources.shapes import ShapesSource
from t2i.files import first_line, shell_word, write_json
from t2i.models.folder import ModelDescription, model_card

PROMPTS = [
    "a red apple",
    "it's, well: (a) 50/50 cat",
    "a $5 bill `id` $(touch x)",
    'a "big" dog',
    "wow!! cat",
    "a\\b",
    "",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_in_a_suggested_command_is_one_word_and_runs_nothing(prompt, tmp_path):
    assert shlex.split(shell_word(prompt)) == [prompt]
    command = ["bash", "-c", f"printf %s {shell_word(prompt)}"]
    assert subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout == prompt
    assert list(tmp_path.iterdir()) == []
    text, facts = {"conditioning": "attention"}, {"prompts": [prompt]}
    card = model_card("m", ModelDescription("dfgan", 64, {"name": "minilm"}, text, {}, training=facts))
    shown = next(line for line in card.splitlines() if line.startswith("t2i generate "))
    assert shlex.split(shown)[2] == prompt


def test_a_plain_prompt_is_shown_in_plain_quotes():
    assert shell_word("a red apple") == '"a red apple"' and shell_word("runs/00000-dfgan") == "runs/00000-dfgan"


def test_a_name_that_is_no_utf8_is_written_escaped(tmp_path):
    name = os.fsdecode(b"pi\xffcs")
    write_json(tmp_path / "a.json", {"name": name})
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": name}


SMALL = PrepareOptions(resolution=16, workers=1)


def test_a_data_set_can_lie_where_a_link_leads(tmp_path):
    """ "On the big disk": the link stays, and so does what else is there."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "data")
    prepare(ShapesSource(6), tmp_path / "out", HashEncoder(), SMALL)
    assert len(PreparedDataset(tmp_path / "out")) == 6 and (tmp_path / "out").is_symlink()
    prepare(ShapesSource(7), tmp_path / "out", HashEncoder(), SMALL, overwrite=True)
    assert len(PreparedDataset(tmp_path / "disk" / "data")) == 7 and (tmp_path / "out").is_symlink()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == ["data", "disk", "out"]


@pytest.mark.parametrize("out", [".", "../here", ""])
def test_the_folder_that_one_stands_in_is_no_place_for_a_data_set(tmp_path, monkeypatch, capfd, out):
    """It takes its place as a whole, and would take it from under the shell."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for rest in ([], ["--val-fraction", "0"]):
        assert run(["prepare", "--shapes", "10", "--resolution", "16", "--workers", "1", "--out", out, *rest]) == 1
        said = capfd.readouterr().err
        assert "the current folder: name another --out" in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_a_folder_whose_name_is_no_utf8_is_a_source(tmp_path):
    root = tmp_path / os.fsdecode(b"pi\xffcs")
    try:
        root.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    for number, record in enumerate(ShapesSource(3)):
        Image.fromarray(record.image.load(16)).save(root / f"{number}.png")
        (root / f"{number}.txt").write_text(record.captions[0])
    prepare(FolderPairSource(root, root), tmp_path / "out", HashEncoder(), SMALL)
    assert PreparedDataset(tmp_path / "out").info["source"]["images"] == root.name


def test_a_split_is_a_plain_name_for_every_source(tmp_path, capfd):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.txt").write_text("a cat")
    source = ["prepare", "--images", str(tmp_path), "--captions", str(tmp_path)]
    assert run([*source, "--split", "../../esc"]) == 1
    assert capfd.readouterr().err.startswith("t2i: --split '../../esc': use a name like train or val")


@pytest.mark.parametrize(
    ("text", "line"),
    [("a\n  b ", "a b"), ("", "ValueError"), ("x" * 200, "x" * 200), ("x" * 201, "x" * 197 + "...")],
    ids=["two lines", "none", "200", "201"],
)
def test_an_errors_text_is_one_line_and_shows_where_it_was_cut(text, line):
    assert first_line(ValueError(text)) == line


@pytest.mark.slow
def test_a_long_path_of_temporary_files_is_taken(tmp_path):
    """A socket's path may have 108 characters only."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    command = [sys.executable, "-c", "import prepare_driver, sys; prepare_driver.use_hash_encoder(); "
               "from t2i.cli import main; main(sys.argv[1:])"]  # fmt: skip
    command += ["prepare", "--shapes", "9", "--val-fraction", "0", "--resolution", "16", "--out", str(tmp_path / "out")]
    paths = [str(Path(__file__).parent / "faults"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "TMPDIR": str(long), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(PreparedDataset(tmp_path / "out")) == 9
