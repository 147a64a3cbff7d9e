"""t2i evaluate: scores of a model on a held-out data set, with their bounds."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from typer import Argument, Option

from t2i.cli import console
from t2i.cli.options import Device, Json, TextEncoderFolder, Truncation
from t2i.errors import UsageError, UserError
from t2i.prompts import check_truncation, still_growing

if TYPE_CHECKING:
    from t2i.data.prepared import PreparedDataset
    from t2i.evaluation.protocol import Evaluator, Options
    from t2i.evaluation.report import Report, Score
    from t2i.evaluation.sampler import CaptionSampler
    from t2i.pipeline import TextToImagePipeline


def evaluate(
    model: Annotated[
        Path | None,
        Argument(help="Model or run folder (default: the newest run); none with --images.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        Argument(
            help="Prepared data set to score on (default: the validation split beside the training data).",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None, Option(help="Score the images of this folder, in place of a model.", show_default=False)
    ] = None,
    captions: Annotated[
        Path | None,
        Option(help="With --images, a list of their captions: JSON, JSONL, CSV, TSV.", show_default=False),
    ] = None,
    metrics: Annotated[
        str | None,
        Option(
            help="fd, kd, prdc, r-precision, variety, attributes, fid, kid, clip (default: all possible), copies.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        Option(help="Images to generate (default: one for each in DATA, at most 10,000).", show_default=False),
    ] = None,
    train_data: Annotated[
        Path | None,
        Option(help="Training data, for the matcher and the ceilings (default: the run's).", show_default=False),
    ] = None,
    inception_weights: Annotated[
        Path | None, Option(help="Inception weights for FID: pt_inception-2015-12-05-6726825d.pth.", show_default=False)
    ] = None,
    clip: Annotated[
        str | None, Option(help="CLIP model: a folder, or a name on the Hugging Face hub.", show_default=False)
    ] = None,
    truncation: Truncation = 1.0,
    seed: Annotated[int, Option(help="Seed of captions, noise and distractors.")] = 0,
    text_encoder: TextEncoderFolder = None,
    device: Device = "auto",
    out: Annotated[
        Path | None, Option(help="Folder for the history and the sheet (default: the run folder).", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Score a model on held-out images: quality, variety and prompt adherence.

    Every score names its network and has a ceiling, the score of real images. Scores that depend on the text also have
    a floor, the score with shuffled captions. See docs/evaluation.md.
    """
    names = tuple(part.strip() for part in metrics.split(",")) if metrics is not None else None
    if samples is not None and not 2 <= samples <= 1_000_000:
        raise UsageError("--samples lies between 2 and 1,000,000")
    if not 0 <= seed < 2**30:
        raise UsageError("--seed lies between 0 and 2^30")
    check_truncation(truncation)
    for option, value, wanted in (
        ("--inception-weights", inception_weights, {"fid", "kid"}), ("--clip", clip, {"clip"}),
    ):  # fmt: skip
        if value is not None and names is not None and not wanted & set(names):
            raise UsageError(f"{option} does nothing here: --metrics names none of {', '.join(sorted(wanted))}")
    if samples is not None and names == ("attributes",):
        raise UsageError("--samples does nothing here: attributes has 400 prompts of its own of each kind")
    drawing = {"--samples": samples is not None, "--truncation": truncation != 1, "--text-encoder": text_encoder}
    _check_images(images, captions, model, data, [option for option, given in drawing.items() if given])

    from t2i.evaluation.protocol import Options

    asked = _Asked(train_data, Options(names, samples, seed, inception_weights, clip), device, out, json)
    if images is not None:
        on = data or model  # with --images the first argument is DATA
        assert captions is not None and on is not None
        _evaluate_images(images, captions, on, asked)
    else:
        _evaluate_model(model or _newest(json), data, truncation, text_encoder, asked)


class _Asked(NamedTuple):
    """What is asked for of a model and of a folder of images alike."""

    train_data: Path | None
    options: "Options"
    device: str
    out: Path | None
    json: bool


def _newest(json: bool) -> Path:
    """The newest run. Raises UserError, one line, where there is none."""
    from t2i.training.run import find_runs

    if not (runs := find_runs()):
        raise UserError("no model here: no run in runs/ has one; train one with t2i train, or name a model")
    if not json:
        console.say(f"model: {runs[-1]} (the newest run; name another: t2i evaluate MODEL)")
    return runs[-1]


def _evaluate_model(
    model: Path, data: Path | None, truncation: float, text_encoder: Path | None, asked: _Asked
) -> None:
    """Score a model by what it draws."""
    from t2i.evaluation.clip import refuse_own_encoder
    from t2i.evaluation.protocol import Evaluator
    from t2i.evaluation.sampler import CaptionSampler
    from t2i.files import check_writable
    from t2i.pipeline import TextToImagePipeline
    from t2i.training.run import run_of

    pipe = TextToImagePipeline.from_pretrained(model, asked.device, text_encoder)
    if asked.options.clip is not None:
        refuse_own_encoder(asked.options.clip, pipe.description.text_encoder)
    run = run_of(model)
    train = _training_data(pipe, run, asked.train_data)
    dataset = _evaluated(data, train, model)
    if not asked.json:
        console.say(f"data: {dataset.path} ({dataset.name} {dataset.split}, {len(dataset):,} images)")
        console.say(f"training data: {train.path if train is not None else 'not found; name it with --train-data'}")
    sampler = CaptionSampler.of_pipeline(pipe, truncation)
    sampler.check(dataset)
    folder = asked.out or run
    if folder is not None:
        check_writable(folder)  # before the work
    with console.stages(asked.json) as progress:
        evaluator = Evaluator(dataset, train, replace(asked.options, device=str(pipe.device)), progress)
        report = evaluator.score(sampler, progress)
    about = {
        "path": str(model), "architecture": pipe.description.architecture, "resolution": pipe.resolution,
        "images_seen": pipe.description.training.get("images_seen"), "sha256": pipe.weights_sha256,
        "truncation": truncation,
    }  # fmt: skip
    chosen = _chosen_on(run, model) or pipe.description.training  # a model of 0.1 records it itself
    if chosen.get("chosen_on") == dataset.fingerprint:
        report.notes.insert(
            0,
            f"this model was chosen by its {chosen['best_by']} on these very images, the best of many snapshots: "
            "its scores here are not held-out ones; score it on another split",
        )
    if growing := still_growing(pipe):
        report.notes.insert(0, growing)
        about["grown_to"] = pipe.grown.resolution
    report.facts = {"model": about, **report.facts}
    _tell(report, _write(report, evaluator, sampler, folder), asked.json)


def _tell(report: "Report", written: dict[str, str], json: bool) -> None:
    """The scores, and the files that were written beside them."""
    if json:
        console.print_json({**report.to_dict(), **written})
        return
    _show(report)
    for what, path in written.items():
        console.say(f"{what}: {path}")


def _check_images(
    images: Path | None, captions: Path | None, model: Path | None, data: Path | None, drawing: list[str]
) -> None:
    """Raises UsageError where --images lacks something, or stands beside what only a model has."""
    if images is None:
        if captions is not None:
            raise UsageError("--captions goes with --images")
        return
    if captions is None:
        raise UsageError("--images needs --captions FILE, a list that names each image and its caption")
    if (model is None) == (data is None):
        raise UsageError("--images takes the place of a model: t2i evaluate --images DIR --captions FILE DATA")
    if drawing:
        raise UsageError(f"{drawing[0]} does nothing here: the images of --images are drawn already")


def _evaluate_images(images: Path, captions: Path, data: Path, asked: _Asked) -> None:
    """Score a folder of images in place of a model."""
    from t2i.data.prepared import PreparedDataset
    from t2i.device import pick_device
    from t2i.evaluation.protocol import Evaluator
    from t2i.evaluation.saved import SavedSamples
    from t2i.files import check_writable

    dataset = PreparedDataset(data)
    train = PreparedDataset(asked.train_data) if asked.train_data is not None else None
    saved = SavedSamples.read(images, captions)
    if not asked.json:
        console.say(f"images: {images} ({len(saved.captions):,}, captions of {captions})")
        console.say(f"data: {dataset.path} ({dataset.name} {dataset.split}, {len(dataset):,} images)")
    if asked.out is not None:
        check_writable(asked.out)
    options = replace(asked.options, device=str(pick_device(asked.device)))
    with console.stages(asked.json) as progress:
        evaluator = Evaluator(dataset, train, options, progress, saved.captions)
        report = evaluator.score(saved, progress)
    report.notes += saved.notes
    if saved.resized:
        report.notes.append(
            f"{saved.resized:,} of the images are not {dataset.resolution} px: they were cropped and resized as t2i "
            "prepare does"
        )
    report.facts = {"images": {"path": str(images), "captions": str(captions)}, **report.facts}
    written = {}
    if asked.out is not None:
        written = {**_write_copies(evaluator, asked.out), "history": str(report.append_to(asked.out))}
    _tell(report, written, asked.json)


def _chosen_on(run: Path | None, model: Path) -> "dict[str, Any]":
    """The score and the data by which the run's best snapshot was chosen; {} if `model` is not that snapshot."""
    from t2i.models.find import best_in_run, find_model
    from t2i.training.run import Run

    if run is None or (best := best_in_run(run)) is None or best.absolute() != find_model(model).absolute():
        return {}
    return Run(run).read_best() or {}


def _training_data(pipe: "TextToImagePipeline", run: Path | None, given: Path | None) -> "PreparedDataset | None":
    """The data set that the model was trained on: the one given, else found by the run's path and by fingerprint."""
    from t2i.data.prepared import PreparedDataset
    from t2i.training.run import find_data

    fingerprint = pipe.description.training.get("data_fingerprint")
    if given is not None:
        train = PreparedDataset(given)
        if fingerprint not in (None, train.fingerprint):
            console.warn(f"{given} is not the data set that this model was trained on (its fingerprint differs)")
        return train
    return find_data(fingerprint, run)


def _evaluated(given: Path | None, train: "PreparedDataset | None", model: Path) -> "PreparedDataset":
    """The data set to score on: the one given, else the newest validation split beside the training data."""
    from t2i.data.prepared import PreparedDataset, find_validation

    if given is not None:
        return PreparedDataset(given)
    if train is None:
        raise UserError(f"which data? the training data of {model} was not found: t2i evaluate {model} DATA")
    if (found := find_validation(train)) is not None:
        return found
    raise UserError(
        f"no validation split of {train.name} at {train.resolution} px beside {train.path}: make one with t2i prepare "
        f"--split val or --val-fraction, or name a data set: t2i evaluate {model} DATA"
    )


def _write(report: "Report", evaluator: "Evaluator", sampler: "CaptionSampler", folder: Path | None) -> dict[str, str]:
    """Write the history and the sheet of best and worst samples. Returns {kind: path}."""
    from t2i.evaluation.sheet import best_and_worst
    from t2i.image_files import save_image

    if folder is None:
        report.notes.append(
            "the model is in no run folder: --out FOLDER writes the history and the sheet of best and worst"
        )
        return {}
    written = _write_copies(evaluator, folder)
    sheet = best_and_worst(evaluator, sampler, report)
    if sheet is not None:
        data = evaluator.data
        path = folder / f"best-and-worst-{data.name}-{data.split}-{data.resolution}.png"
        save_image(sheet, path, {"model": f"sha256:{report.facts['model']['sha256']}", "data": data.fingerprint})
        written["best and worst"] = str(path)
    return {**written, "history": str(report.append_to(folder))}


def _write_copies(evaluator: "Evaluator", folder: Path) -> dict[str, str]:
    """Write the sheet of the nearest pairs, where copies were looked for. Returns {kind: path}."""
    from t2i.image_files import save_image

    if evaluator.copies is None:
        return {}
    path = folder / f"copies-{evaluator.data.name}-{evaluator.data.split}-{evaluator.data.resolution}.png"
    save_image(evaluator.copies.sheet(), path)
    return {"nearest training images": str(path)}


def _show(report: "Report") -> None:
    """Print the scores as tables, then the network and the reference of each."""
    from rich.table import Table

    from t2i.evaluation.report import readable

    table = Table("score", "model", "ceiling", "floor", "better")
    groups: dict[str, list[str]] = {}
    attributes: dict[str, dict[str, dict[str, Score]]] = {}
    for score in report.scores:
        name, *rest = score.name.split(", ")
        if attribute := len(rest) == 2:  # "colour, one object, seen"; not "variety, pixels"
            attributes.setdefault(rest[0], {}).setdefault(name, {})[rest[1]] = score
        else:
            error = f" ± {readable(score.error, 2)}" if score.error is not None else ""
            cells = [f"{readable(score.value)}{error}", readable(score.ceiling), readable(score.floor)]
            table.add_row(score.name, *cells, score.better)
        ceiling = f"; ceiling: {score.ceiling_of}" if score.ceiling_of else ""
        about = f"{score.network}; {score.samples:,} samples against {score.reference}{ceiling}"
        groups.setdefault(about, []).append("attributes" if attribute else score.name)
        if score.note:
            report.notes.append(f"{score.name}: {score.note}")
    if table.row_count:
        console.out.print(table)
    for objects, names in attributes.items():
        table = Table(objects, "seen pairs", "ceiling", "floor", "unseen pairs", "ceiling", "floor")
        for name, pairs in names.items():
            found = [(score.value, score.ceiling, score.floor) for score in (pairs["seen"], pairs["unseen"])]
            table.add_row(name, *(f"{value:.2f}" for values in found for value in values))
        console.out.print(table)
    for about, measured in groups.items():
        console.say(f"{', '.join(dict.fromkeys(measured))}: {about}")
    for note in dict.fromkeys(report.notes):
        console.say(f"note: {note}")
