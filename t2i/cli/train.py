"""t2i train: a prepared data set in, a run folder out."""

import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from t2i.cli import console
from t2i.config import COMMAND_LINE, FIELDS, TrainConfig, help_of, read_toml, resolve
from t2i.errors import UsageError, UserError
from t2i.files import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from t2i.data.prepared import PreparedDataset
    from t2i.models import Architecture
    from t2i.training.loop import Status
    from t2i.training.run import Run

RUNS = Path("runs")


def _setting(name: str, metavar: str | None = None, help: str | None = None) -> Any:
    """An option whose help text is the config's; without a default, so that a preset can give one."""
    return Option(help=help or help_of(name), show_default=False, metavar=metavar)


def train(
    data: Annotated[
        Path | None, Argument(help="A prepared data set; left out, the newest in t2i-data/.", show_default=False)
    ] = None,
    arch: Annotated[str | None, _setting("arch", "NAME")] = None,
    preset: Annotated[str | None, _setting("preset", "NAME")] = None,
    conditioning: Annotated[str | None, _setting("conditioning", "attention|sentence")] = None,
    text_encoder: Annotated[str | None, _setting("text_encoder", "prepared|transformer")] = None,
    loss: Annotated[str | None, _setting("loss", "hinge|logistic|wgan-gp")] = None,
    penalty: Annotated[str | None, _setting("penalty", "ma-gp|r1|wgan-gp|none")] = None,
    penalty_every: Annotated[int | None, _setting("penalty_every")] = None,
    growing: Annotated[
        bool | None, Option("--growing/--no-growing", help=help_of("growing"), show_default=False)
    ] = None,
    batch: Annotated[int | None, _setting("batch")] = None,
    accumulate: Annotated[int | None, _setting("accumulate")] = None,
    kimg: Annotated[float | None, _setting("kimg")] = None,
    minutes: Annotated[float | None, _setting("minutes")] = None,
    lr_g: Annotated[float | None, _setting("lr_g")] = None,
    lr_d: Annotated[float | None, _setting("lr_d")] = None,
    amp: Annotated[bool, Option("--amp", help="Mixed precision: the same as --precision bf16.")] = False,
    precision: Annotated[str | None, _setting("precision", "fp32|bf16|fp16")] = None,
    seed: Annotated[int | None, _setting("seed")] = None,
    config: Annotated[
        Path | None, Option(help="Settings from a TOML file; every setting can stand there.", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None, Option(help="Go on with this run folder, with its settings.", show_default=False)
    ] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda or mps.")] = "auto",
    out: Annotated[Path, Option(help="Folder that the run folder is made in.")] = RUNS,
    dry_run: Annotated[bool, Option("--dry-run", help="Print the resolved settings and stop.")] = False,
) -> None:
    """Train an architecture on a prepared data set.

    A value on the command line wins over the config file, that over the preset, that over the default. Ctrl-C stops
    at the next step with a checkpoint and a usable model.
    """
    given = {
        "arch": arch, "preset": preset, "conditioning": conditioning,
        "text_encoder": text_encoder, "loss": loss, "penalty": penalty,
        "penalty_every": penalty_every, "growing": growing, "batch": batch,
        "accumulate": accumulate, "kimg": kimg, "minutes": minutes, "lr_g": lr_g, "lr_d": lr_d,
        "precision": precision, "seed": seed,
    }  # fmt: skip
    flags = {name: value for name, value in given.items() if value is not None}
    if amp:
        if flags.get("precision", "bf16") != "bf16":
            raise UsageError(f"--amp means --precision bf16; it excludes --precision {precision}")
        flags["precision"] = "bf16"

    from t2i.data.prepared import PreparedDataset
    from t2i.device import pick_device
    from t2i.training.run import Run

    where = pick_device(device)
    if resume is not None:
        if out != RUNS:
            raise UsageError("--out is for a new run; --resume goes on in the run's own folder")
        run = Run(resume)
        settings, dataset = _resumed(run, data, flags, config)
        if dry_run:
            _show(settings, dict.fromkeys(FIELDS, "default"), dataset, where)
            return
    else:
        dataset = PreparedDataset(data or _newest_dataset())
        settings, origin = _resolve(dataset, flags, config, where.type)
        _show(settings, origin, dataset, where)
        if dry_run:
            return
        facts = {
            "name": dataset.name, "split": dataset.split, "resolution": dataset.resolution,
            "path": str(dataset.path), "fingerprint": dataset.fingerprint, "pictures": len(dataset),
        }  # fmt: skip
        run = Run.create(out, settings, facts, str(where))
    run.log(" ".join(sys.argv))
    console.say(f"run: {run.folder}")
    _train(settings, dataset, run, where, resume is not None)


def _resolve(
    dataset: "PreparedDataset", flags: dict[str, Any], config: Path | None, device: str
) -> tuple[TrainConfig, dict[str, str]]:
    """The settings of a new run, and where each came from."""
    from t2i.models import get_architecture
    from t2i.text.transformer import SETTINGS, SMALL

    file = read_toml(config) if config else {}
    named = {**file, **flags}
    try:
        architecture = get_architecture(str(named.get("arch", TrainConfig.arch)))
    except ValueError as error:
        raise UsageError(f"--arch: {error}") from error
    preset = str(named.get("preset", "auto"))
    if preset == "auto":
        preset = "paper" if device == "cuda" else "small"
    if preset not in architecture.presets:
        raise UsageError(f"--preset {preset}: {architecture.name} has {', '.join(architecture.presets)}")
    rows = architecture.presets[preset]
    row = dict(rows[min(rows, key=lambda resolution: abs(resolution - dataset.resolution))])
    model = {name: row.pop(name) for name in list(row) if name in architecture.model_options}
    _check_table("model", file.get("model", {}), architecture.model_options, architecture.name, config)
    _check_table("encoder", file.get("encoder", {}), SETTINGS, "the transformer text encoder", config)
    settings = {**architecture.defaults, **row, "preset": preset, "model": model}
    if named.get("text_encoder") == "transformer":
        settings["encoder"] = SMALL if preset == "small" else {}
    elif file.get("encoder"):
        raise UsageError(f"{config}: [encoder] is for --text-encoder transformer")
    if chosen := [name for name in ("loss", "penalty") if named.get(name, settings.get(name)) != settings.get(name)]:
        # Weight and laziness were the preset's for its own choice; a Wasserstein critic brings its penalty.
        settings.pop("penalty_weight", None)
        settings.pop("penalty_every", None)
        if "loss" in chosen and named["loss"] == "wgan-gp":
            settings["penalty"] = "wgan-gp"
        elif settings["penalty"] == "wgan-gp":
            settings["penalty"] = "r1"
    resolved, origin = resolve(
        (f"preset {preset}", settings),
        (str(config), {name: value for name, value in file.items() if name != "preset"}),
        (COMMAND_LINE, {name: value for name, value in flags.items() if name != "preset"}),
    )
    _check_together(resolved, architecture)
    return resolved, origin


def _check_together(settings: TrainConfig, architecture: "Architecture") -> None:
    """Raises UsageError where a setting makes no sense with the architecture."""
    if settings.growing and not architecture.grows:
        raise UsageError(f"--growing: {architecture.name} has one size; it does not grow")
    batches = [stage.batch or settings.batch for stage in settings.stages] if settings.growing else [settings.batch]
    for batch in batches:
        if settings.accumulate > 1 and batch // settings.accumulate % architecture.group:
            raise UsageError(
                f"--accumulate {settings.accumulate} splits a batch of {batch} into pieces of "
                f"{batch // settings.accumulate}; {architecture.name} compares pictures in groups of "
                f"{architecture.group}, so a piece must be a multiple of that"
            )


def _check_table(name: str, table: Any, known: dict[str, Any], owner: str, config: Path | None) -> None:
    """Does a table of a config file hold settings of its owner? known: name -> default. Raises UsageError, one line."""
    if not isinstance(table, dict):
        raise UsageError(f"{config}: [{name}] must be a table")
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{config}: {owner} has no {name} setting {key!r}; it has {', '.join(known)}")
        kind = type(known[key])
        if known[key] is not None and type(value) is not kind and (kind, type(value)) != (float, int):
            like = f"{kind.__name__}, such as {known[key]!r}"
            raise UsageError(f"{config}: [{name}] {key} must be of type {like}, not {value!r:.60}")


def _resumed(
    run: "Run", data: Path | None, flags: dict[str, Any], config: Path | None
) -> tuple[TrainConfig, "PreparedDataset"]:
    """The settings of a run to go on with. Only how long it trains may change."""
    import dataclasses

    from t2i.data.prepared import PreparedDataset

    settings, facts = run.read_config()
    if config is not None:
        raise UsageError("--config cannot change a run that is resumed; its settings are in its config.json")
    may_change = ("kimg", "minutes")
    changed = [name for name, value in flags.items() if name not in may_change and getattr(settings, name) != value]
    if changed:
        raise UsageError(
            f"--{changed[0].replace('_', '-')} {flags[changed[0]]} differs from the run's "
            f"{getattr(settings, changed[0])}; a resumed run keeps its settings, but for --kimg and --minutes"
        )
    settings = dataclasses.replace(
        settings,
        kimg=flags.get("kimg", settings.kimg),
        minutes=flags.get("minutes"),
        grow_kimg=settings.grow_kimg or settings.kimg,  # a longer run does not grow again
    ).check()
    dataset = PreparedDataset(data or Path(str(facts.get("path"))))
    if dataset.fingerprint != facts.get("fingerprint"):
        raise UserError(
            f"{dataset.path} is not the data set that {run.folder} was trained on (its fingerprint differs); "
            "name that one, or start a new run"
        )
    return settings, dataset


def _newest_dataset() -> Path:
    from t2i.data.prepared import PreparedDataset, find_datasets

    found = [path for path in find_datasets() if PreparedDataset(path).split != "val"]
    if not found:
        raise UserError("no prepared data set in t2i-data/; make one first: t2i prepare --coco PATH, or --shapes 2000")
    return found[-1]


def _show(settings: TrainConfig, origin: dict[str, str], dataset: "PreparedDataset", device: Any) -> None:
    from t2i.models import get_architecture
    from t2i.text.pooler import TextStatistics
    from t2i.text.transformer import SETTINGS
    from t2i.training.growth import Schedule
    from t2i.training.loop import network_options

    architecture = get_architecture(settings.arch)
    schedule = Schedule(settings, dataset.resolution)
    options = network_options(settings, dataset.resolution)
    try:
        width = dataset.text["width"]
        if settings.text_encoder == "transformer":
            width = {**SETTINGS, **settings.encoder}["width"]
        statistics = TextStatistics.identity(width)
        networks = architecture.build(dataset.resolution, settings.conditioning, statistics, options, 0)
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        chosen = ", ".join(f"{name} {value}" for name, value in options.items())
        raise UsageError(
            f"{settings.arch} cannot be built at {dataset.resolution} px with {chosen} ({first_line(error)})"
        ) from error
    sizes = [sum(parameter.numel() for parameter in network.parameters()) / 1e6 for network in networks]
    rows: dict[str, Any] = {
        "data": f"{dataset.path} ({len(dataset):,} pictures, {dataset.resolution} px)",
        "device": device,
        "networks": f"generator {sizes[0]:.2f} M, discriminator {sizes[1]:.2f} M parameters",
    }
    for name, source in origin.items():
        value = getattr(settings, name)
        if name == "model":
            value = ", ".join(f"{key} {item}" for key, item in options.items() if key in architecture.model_options)
        elif name == "encoder":
            value = {**SETTINGS, **value} if settings.text_encoder == "transformer" else {}
            value = ", ".join(f"{key} {item}" for key, item in value.items()) or None
        elif name == "stages":
            value = schedule.describe() if settings.growing else None
        rows[name] = f"{'-' if value is None else value}" + ("" if source == "default" else f"  [{source}]")
    console.table(f"{settings.arch}: {architecture.summary}", rows)


def _train(settings: TrainConfig, dataset: "PreparedDataset", run: "Run", device: Any, resume: bool) -> None:
    from t2i.training.loop import train as run_training

    def say(line: str) -> None:
        run.log(line)
        console.say(line)

    with _signals() as caught, _progress(run) as show:
        outcome = run_training(
            settings, dataset, run, device, resume=resume, stop=lambda: bool(caught), on_status=show, say=say
        )
    say(f"{outcome.images_seen:,} images seen, {outcome.seconds / 60:.1f} minutes; model: {run.model}")
    if caught:
        name = signal.Signals(caught[0]).name
        message = f"stopped by {name}; go on with: t2i train --resume {run.folder}"
        run.log(message)
        console.err.print(f"t2i: {message}", markup=False)
        raise Exit(128 + caught[0])
    console.say(f't2i generate "{_first_prompt(dataset)}" --model {run.model} -o out.png')


def _first_prompt(dataset: "PreparedDataset") -> str:
    return dataset.caption(int(dataset.caption_ids(0)[0])).replace('"', "'")


@contextmanager
def _signals() -> "Iterator[list[int]]":
    """Collects SIGINT and SIGTERM; a second one falls through to the default and leaves at once."""
    caught: list[int] = []

    def catch(number: int, frame: Any) -> None:
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)
        console.err.print("t2i: stopping at the next step; once more to leave at once", markup=False)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(run: "Run") -> "Iterator[Any]":
    """Shows the status: a bar in a terminal, else a line each; the line goes to log.txt as well."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if not console.out.is_terminal:

        def line(status: "Status") -> None:
            run.log(text := describe(status))
            print(text, flush=True)

        yield line
        return
    columns = (BarColumn(bar_width=10), TimeRemainingColumn(compact=True), TextColumn("{task.description}"))
    with Progress(*columns, console=console.out) as bar:
        task = bar.add_task("starting", total=None)

        def move(status: "Status") -> None:
            run.log(describe(status))
            share = status.images_seen / status.goal
            if status.minutes:
                share = max(share, status.seconds / (60 * status.minutes))
            bar.update(task, description=describe_briefly(status), total=1.0, completed=share)

        yield move


def describe(status: "Status") -> str:
    """One line of progress."""
    metrics = status.metrics
    return (
        f"{status.images_seen / 1000:.1f} kimg  {_size(metrics)}  {metrics['images_per_second']:.0f} img/s  "
        f"{metrics['memory_gib']:.1f} GiB  loss G {metrics['loss_g']:.2f} D {metrics['loss_d']:.2f}  "
        f"logits real {metrics['logits_real']:.2f} mismatch {metrics['logits_mismatch']:.2f} "
        f"fake {metrics['logits_fake']:.2f}"
    )


def _size(metrics: dict[str, float]) -> str:
    """The resolution in training, with alpha while it fades in: "32 px a0.25"."""
    return f"{metrics['resolution']:.0f} px" + (f" a{metrics['alpha']:.2f}" if metrics["alpha"] < 1 else "")


def describe_briefly(status: "Status") -> str:
    """The same for a bar in a terminal of 80 columns; r/m/f are the real, mismatch and fake logits."""
    metrics = status.metrics
    logits = "/".join(f"{metrics[name]:.1f}" for name in ("logits_real", "logits_mismatch", "logits_fake"))
    return (
        f"{status.images_seen / 1000:.1f} kimg {_size(metrics)} {metrics['images_per_second']:.0f} img/s "
        f"{metrics['memory_gib']:.1f} GiB G {metrics['loss_g']:.2f} D {metrics['loss_d']:.2f} r/m/f {logits}"
    )
