"""The sample grids of a run: what `t2i generate` draws with each snapshot, of one's own prompts too."""

import numpy as np
import pytest
from short_runs import assert_same_bits, config, final_tensors, start

from t2i import TextToImagePipeline
from t2i.data.prepared import PreparedDataset
from t2i.training import previews

pytestmark = pytest.mark.usefixtures("one_encoder", "whole_grids")

OWN = ("a table", "a small red circle on a white background")


@pytest.fixture
def sheets(monkeypatch):
    """{title: (rows of images, prompts)} of the sample grids that are drawn."""
    drawn, table_grid = {}, previews.table_grid

    def note(rows, labels, columns, title):
        drawn[title] = (rows, labels, columns)
        return table_grid(rows, labels, columns, title)

    monkeypatch.setattr(previews, "table_grid", note)
    return drawn


@pytest.mark.parametrize("prompts", [(), OWN], ids=["captions", "own"])
def test_the_cells_are_what_generate_draws_with_that_snapshot(prompts, sheets, minilm_data, tmp_path):
    data = PreparedDataset(minilm_data)
    run, _ = start(config("dfgan", **{"run.sample_prompts": prompts}), data, tmp_path)
    for title, snapshot in (("16 images seen", "@16"), ("48 images seen", "")):
        rows, labels, columns = sheets[title]
        pipe = TextToImagePipeline.from_pretrained(f"{run.folder}{snapshot}", "cpu")
        assert columns == [f"seed {seed}" for seed in range(6)]
        assert pipe.known_prompts == labels and (labels == list(OWN)) == bool(prompts)
        own = pipe(labels, seeds=range(6), output_type="np").images
        assert np.array_equal(np.stack([image for row in rows for image in row]), own)


def test_own_prompts_change_no_weight(minilm_data, tmp_path):
    data = PreparedDataset(minilm_data)
    own, _ = start(config("dfgan", **{"run.sample_prompts": OWN}), data, tmp_path / "own")
    plain, _ = start(config("dfgan"), data, tmp_path / "plain")
    assert_same_bits(final_tensors(own), final_tensors(plain))


def test_they_come_from_a_file_and_may_change_when_a_run_goes_on(here, t2i, minilm_data):
    (here / "prompts.txt").write_text("a table\n\n a chair \n")
    (here / "tiny.toml").write_text('preset = "small"\n[model]\ngenerator = { nf = 4 }\ndiscriminator = { nf = 4 }\n')
    own = ("--sample-prompts", "prompts.txt")
    t2i("train", minilm_data, "--arch", "dfgan", "--config", "tiny.toml", "--kimg", "0.016", "--batch", "8", *own)
    (run,) = (here / "runs").iterdir()
    assert TextToImagePipeline.from_pretrained(run, "cpu").known_prompts == ["a table", "a chair"]
    (here / "prompts.txt").write_text("a dog\n")
    t2i("train", "--resume", run, "--kimg", "0.032", *own)
    assert TextToImagePipeline.from_pretrained(run, "cpu").known_prompts == ["a dog"]


def test_an_empty_file_is_refused(refused, here, minilm_data):
    (here / "prompts.txt").write_text("\n")
    refused(1, "no prompt in this file", "train", minilm_data, "--sample-prompts", "prompts.txt")
