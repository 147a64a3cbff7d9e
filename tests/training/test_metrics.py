"""A run's metrics.jsonl, metrics.csv and losses.png."""

import csv
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2i.errors import UserError
from t2i.training.metrics import MetricsLog, read_metrics
from t2i.training.plots import draw_losses, smooth

COLUMNS = ("images_seen", "loss_g", "loss_d")


def log_lines(folder: Path, counts: list[int]) -> MetricsLog:
    log = MetricsLog(folder, COLUMNS)
    for count in counts:
        log.append({"images_seen": count, "loss_g": count / 10, "extra": "only in the JSON"})
    return log


def counts(folder: Path) -> tuple[list[int], list[int]]:
    """The images_seen of metrics.jsonl and of metrics.csv."""
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as stream:
        table = [int(row["images_seen"]) for row in csv.DictReader(stream)]
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["images_seen"] for line in lines], table


# ------------------------------------------------------------------------------------------------- the log


def test_a_line_is_in_both_files_as_soon_as_it_is_appended(tmp_path):
    log_lines(tmp_path / "run", [100])
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == [
        {"images_seen": 100, "loss_g": 10.0, "extra": "only in the JSON"}
    ]
    assert (tmp_path / "run" / "metrics.csv").read_text() == "images_seen,loss_g,loss_d\n100,10.0,\n"


def test_a_second_session_goes_on_where_the_first_stopped(tmp_path):
    log_lines(tmp_path, [100, 200]).close()
    with log_lines(tmp_path, [300]):
        pass
    assert counts(tmp_path) == ([100, 200, 300], [100, 200, 300])


def test_numpy_and_torch_numbers_are_logged_and_nan_is_null(tmp_path):
    torch = pytest.importorskip("torch")
    with MetricsLog(tmp_path, COLUMNS) as log:
        log.append({"images_seen": np.int64(5), "loss_g": torch.tensor(0.5), "loss_d": float("nan")})
        log.append({"images_seen": 6, "loss_g": np.float32("inf"), "loss_d": None})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == (
        '{"images_seen": 5, "loss_g": 0.5, "loss_d": null}\n{"images_seen": 6, "loss_g": null, "loss_d": null}\n'
    )
    assert (tmp_path / "metrics.csv").read_text() == "images_seen,loss_g,loss_d\n5,0.5,\n6,,\n"


@pytest.mark.parametrize("torn", [b'{"images_seen": 300, "lo', b"\x00" * 40, b"{", b'{"loss_g": "\xc3'])
def test_a_line_torn_by_a_crash_is_cut_away_and_the_next_one_is_whole(tmp_path, torn):
    log_lines(tmp_path, [100, 200]).close()
    for name in ("metrics.jsonl", "metrics.csv"):
        with open(tmp_path / name, "ab") as stream:
            stream.write(torn)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    log_lines(tmp_path, [400]).close()
    assert counts(tmp_path) == ([100, 200, 400], [100, 200, 400])


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
    log_lines(tmp_path, [100, 200]).close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    log_lines(tmp_path, [300]).close()
    assert counts(tmp_path) == ([100, 200, 300], [100, 200, 300])


def test_a_line_that_a_crash_left_out_of_the_csv_is_there_on_the_next_start(tmp_path):
    log_lines(tmp_path, [100, 200]).close()
    (tmp_path / "metrics.csv").write_text("images_seen,loss_g,loss_d\n100,10.0,\n")
    MetricsLog(tmp_path, COLUMNS).close()
    assert counts(tmp_path) == ([100, 200], [100, 200])


def test_rewinding_drops_later_lines_from_both_files_and_none_appears_twice(tmp_path):
    with log_lines(tmp_path, [100, 200, 300, 400]) as log:
        assert log.rewind(200) == 2
        log.append({"images_seen": 300, "loss_g": 7.0})
    assert counts(tmp_path) == ([100, 200, 300], [100, 200, 300])
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["loss_g"] == 7.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_rewinding_to_the_last_line_or_an_empty_log_changes_nothing(tmp_path):
    with MetricsLog(tmp_path, COLUMNS) as log:
        assert log.rewind(0) == 0
    with log_lines(tmp_path, [100, 200]) as log:
        before = (tmp_path / "metrics.jsonl").read_bytes()
        assert log.rewind(200) == 0
        assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_line_without_a_count_is_dropped_with_the_line_before_it(tmp_path):
    with MetricsLog(tmp_path, COLUMNS) as log:
        for line in (
            {"loss_g": 0.0},
            {"images_seen": 100},
            {"loss_g": 1.0},
            {"images_seen": 200},
            {"loss_g": 2.0},
        ):
            log.append(line)
        assert log.rewind(150) == 2
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"loss_g": 0.0},
        {"images_seen": 100},
        {"loss_g": 1.0},
    ]


@settings(max_examples=30)
@given(seen=st.lists(st.integers(0, 50), max_size=8), to=st.integers(-1, 60), cut=st.integers(0, 400))
def test_whatever_a_crash_cuts_off_both_files_hold_the_same_whole_lines(tmp_path_factory, seen, to, cut):
    folder = tmp_path_factory.mktemp("run")
    seen = sorted(seen)
    log_lines(folder, seen).close()
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[: max(0, path.stat().st_size - cut)])
    with MetricsLog(folder, COLUMNS) as log:
        log.rewind(to)
    lines, table = counts(folder)
    assert lines == table == [c for c in seen[: len(read_metrics(path)) or None] if c <= to][: len(lines)]


def test_a_full_disk_is_one_line(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    log = log_lines(tmp_path, [100])
    log._streams[0].close()
    log._streams[0] = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    with pytest.raises(UserError, match="no space left on the disk") as caught:
        log.append({"images_seen": 200})
    log.close()
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "run"):
        with pytest.raises(UserError) as caught:
            MetricsLog(folder, COLUMNS)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_read_only_folder_is_one_line(read_only_folder):
    for folder in (read_only_folder, read_only_folder / "run"):
        with pytest.raises(UserError, match="Permission denied") as caught:
            MetricsLog(folder, COLUMNS)
        assert "\n" not in str(caught.value)


def test_the_log_and_the_plot_import_no_torch(tmp_path):
    code = (
        "import sys; from t2i.training.metrics import MetricsLog; import t2i.training.plots; "
        "MetricsLog(sys.argv[1], ['images_seen']).append({'images_seen': 1}); "
        "sys.exit(', '.join({'torch', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------ the plot


def write_curves(path: Path, lines: int, **changed: object) -> None:
    rng = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as stream:
        for i in range(lines):
            line = {"images_seen": 1000 * i, "resolution": 16 if i < lines / 2 else 32}
            for key in ("loss_g", "loss_d", "penalty", "logits_real", "logits_mismatch", "logits_fake"):
                line[key] = rng.normal()
            stream.write(json.dumps(line | changed) + "\n")


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


def test_losses_are_drawn_from_a_running_log_with_a_torn_last_line(tmp_path):
    path, out = tmp_path / "metrics.jsonl", tmp_path / "losses.png"
    write_curves(path, 120)
    with open(path, "a") as stream:
        stream.write('{"images_seen": 99')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_losses(path, out) is True
    assert size(out) == (1080, 768)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("text", ["", "\n", '{"images', '{"images_seen": 5}\n', '{"loss_g": 1}\n', "[]\n3\n"])
def test_a_log_with_nothing_to_draw_draws_nothing(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    assert draw_losses(tmp_path / "metrics.jsonl", tmp_path / "losses.png") is False
    assert draw_losses(tmp_path / "absent.jsonl", tmp_path / "losses.png") is False
    assert not (tmp_path / "losses.png").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"loss_g": 1e300},
        {"loss_g": None, "loss_d": "a word"},
        {"logits_real": None, "logits_mismatch": None, "logits_fake": None},
        {"images_seen": 0},
        {"loss_d": 10**400},
    ],
    ids=["explosion", "no-losses", "no-logits", "one-place", "beyond-float"],
)
def test_strange_values_are_drawn_without_a_warning(tmp_path, changed):
    path, out = tmp_path / "metrics.jsonl", tmp_path / "losses.png"
    write_curves(path, 3, **changed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_losses(path, out) is True
    assert size(out) == (1080, 768)


def test_a_run_that_has_only_warmed_up_has_a_curve(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"images_seen": 1000, "coarse_distance": 0.2}\n{"images_seen": 2000, "coarse_distance": 0.1}\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_losses(path, tmp_path / "losses.png") is True


def test_one_explosion_does_not_flatten_the_curves(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_curves(path, 200)
    assert draw_losses(path, tmp_path / "calm.png")
    with open(path, "a") as stream:
        stream.write('{"images_seen": 200000, "loss_g": 1e12}\n')
    assert draw_losses(path, tmp_path / "exploded.png")

    def rows_with_orange(name: str) -> int:  # how much of the height the discriminator's curve takes up
        with Image.open(tmp_path / name) as image:
            pixels = np.asarray(image.convert("RGB"), np.int32)[100:360]
        # D55E00, faint or strong: much more red than blue
        return int((pixels[:, :, 0] - pixels[:, :, 2] > 30).any(1).sum())

    assert rows_with_orange("exploded.png") > 0.5 * rows_with_orange("calm.png")


def test_the_moving_average_keeps_a_constant_and_passes_over_gaps():
    values = np.full(200, 3.0)
    values[50:60] = np.nan
    assert np.allclose(smooth(values), 3.0, equal_nan=True)
    assert np.isfinite(smooth(values)[[0, 49, 60, 199]]).all()


def test_a_plot_that_cannot_be_written_is_one_line(tmp_path):
    write_curves(tmp_path / "metrics.jsonl", 3)
    with pytest.raises(UserError) as caught:
        draw_losses(tmp_path / "metrics.jsonl", tmp_path / "absent" / "losses.png")
    assert "\n" not in str(caught.value)
