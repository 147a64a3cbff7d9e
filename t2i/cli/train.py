"""t2i train: a prepared data set in, a run folder out."""

import os
import signal
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from t2i.cli import console
from t2i.cli.launch import begun_before, end_with_launcher, launch, seconds_gone, tell
from t2i.cli.progress import heard, progress
from t2i.cli.run_summary import Request, show
from t2i.config import FIELDS, TrainConfig, help_of
from t2i.errors import UsageError, UserError
from t2i.files import shell_word
from t2i.prompts import read_prompts
from t2i.signals import comes_twice, stop_signals

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from t2i.data.prepared import PreparedDataset
    from t2i.training.distributed import Ranks
    from t2i.training.run import Run

RUNS = Path("runs")


def _setting(name: str, metavar: str | None = None) -> Any:
    """The option of a setting, whose help text is the config's; without a default, so that a preset can give one."""
    return Option(FIELDS[name].metadata["option"], help=help_of(name), show_default=False, metavar=metavar)


def train(
    data: Annotated[
        list[Path] | None,
        Argument(help="A prepared data set, or several; left out, the newest in t2i-data/.", show_default=False),
    ] = None,
    weights: Annotated[
        list[int] | None, Option(help="Of several data sets, their shares: A B --weights 2 1.", show_default=False)
    ] = None,
    arch: Annotated[str | None, _setting("arch", "NAME")] = None,
    preset: Annotated[str | None, _setting("preset", "NAME|FILE")] = None,
    conditioning: Annotated[str | None, _setting("text.conditioning", "attention|sentence")] = None,
    text_encoder: Annotated[str | None, _setting("text.encoder", "prepared|transformer")] = None,
    loss: Annotated[str | None, _setting("loss.adversarial.kind", "hinge|logistic|wgan-gp|relativistic")] = None,
    penalty: Annotated[str | None, _setting("loss.penalty.kind", "ma-gp|r1|wgan-gp|none")] = None,
    penalty_every: Annotated[int | None, _setting("loss.penalty.every")] = None,
    growing: Annotated[bool | None, _setting("schedule.growing")] = None,
    batch: Annotated[int | None, _setting("optim.batch")] = None,
    accumulate: Annotated[int | None, _setting("optim.accumulate")] = None,
    kimg: Annotated[float | None, _setting("schedule.kimg")] = None,
    minutes: Annotated[float | None, _setting("schedule.minutes")] = None,
    lr_g: Annotated[float | None, _setting("optim.lr_g")] = None,
    lr_d: Annotated[float | None, _setting("optim.lr_d")] = None,
    amp: Annotated[
        bool,
        Option("--amp", help="Mixed precision: bf16, or fp16 on a GPU without it; a CPU without it keeps to fp32."),
    ] = False,
    precision: Annotated[str | None, _setting("optim.precision", "fp32|bf16|fp16")] = None,
    seed: Annotated[int | None, _setting("run.seed")] = None,
    config: Annotated[
        Path | None, Option(help="Settings from a TOML file; every setting can stand there.", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None,
        Option(
            metavar="[RUN]", help="Resume a run, with its settings; alone, the newest in runs/.", show_default=False
        ),
    ] = None,
    begin_with: Annotated[str | None, _setting("begin_with", "RUN|RUN@N|MODEL")] = None,
    gpus: Annotated[
        int | None, Option(help="Processes on this machine, a GPU each (or a share of the cores).", show_default=False)
    ] = None,
    threads: Annotated[int | None, _setting("run.threads")] = None,
    checkpoint_minutes: Annotated[float | None, _setting("run.checkpoint_minutes")] = None,
    eval_every: Annotated[int | None, _setting("eval.every")] = None,
    best_by: Annotated[str | None, _setting("eval.best_by", "kd|fd|r-precision")] = None,
    patience: Annotated[int | None, _setting("eval.patience")] = None,
    sample_prompts: Annotated[Path | None, _setting("run.sample_prompts", "FILE")] = None,
    on_nan: Annotated[str | None, _setting("run.on_nan", "stop|rollback")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda or mps.")] = "auto",
    out: Annotated[Path, Option(help="Folder that the run folder is made in.")] = RUNS,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print all settings, as a file for --config, time a few steps, and stop.")
    ] = False,
) -> None:
    """Train an architecture on a prepared data set.

    A value on the command line wins over the config file, that over the preset, that over the default. Ctrl-C stops
    at the next step with a checkpoint and a usable model.
    """
    given = {
        "arch": arch, "preset": preset, "text.conditioning": conditioning, "text.encoder": text_encoder,
        "loss.adversarial.kind": loss, "loss.penalty.kind": penalty, "loss.penalty.every": penalty_every,
        "schedule.growing": growing, "optim.batch": batch, "optim.accumulate": accumulate, "schedule.kimg": kimg,
        "schedule.minutes": minutes, "optim.lr_g": lr_g, "optim.lr_d": lr_d, "optim.precision": precision,
        "run.seed": seed, "run.threads": threads, "run.checkpoint_minutes": checkpoint_minutes,
        "eval.every": eval_every, "eval.best_by": best_by, "eval.patience": patience, "run.on_nan": on_nan,
        "run.sample_prompts": sample_prompts and read_prompts(sample_prompts), "begin_with": begin_with,
    }  # fmt: skip
    flags = {name: value for name, value in given.items() if value is not None}
    if amp and precision:
        raise UsageError("--amp chooses the precision: leave --precision out")

    from t2i.device import mixed_precision
    from t2i.training.distributed import Ranks, local_device, lost_contact
    from t2i.training.run import Run, newest_resumable

    if gpus is not None and gpus < 1:
        raise UsageError(f"--gpus must be at least 1, not {gpus}")
    if gpus and gpus > 1 and not dry_run and "WORLD_SIZE" not in os.environ:
        _check_gpus(gpus, device)
        raise Exit(launch(gpus, console.arguments()))
    end_with_launcher()
    where = local_device(device)
    ranks = Ranks.join(where)
    if gpus not in (None, ranks.size) and not dry_run:
        raise UsageError(f"--gpus {gpus}, but WORLD_SIZE says {ranks.size}: under torchrun leave --gpus out")
    if not ranks.first:
        console.silence()
    if amp:
        flags["optim.precision"] = mixed_precision(where)
        if flags["optim.precision"] == "fp32" and not dry_run:
            console.say(f"--amp: {where} does not compute in bf16 itself, which would be slower: fp32")
    request = Request(data or [], weights, flags, config, dry_run, gpus or ranks.size)
    try:
        if resume is None:
            _begin(out, request, where, ranks)
        else:
            if out != RUNS:
                raise UsageError("--out is for a new run; --resume goes on in the run's own folder")
            run = newest_resumable(RUNS) if str(resume) == console.NEWEST else Run(resume)
            if minutes is not None:
                flags["schedule.minutes"] = _rest_of(minutes, seconds_gone())
            _resume(run, request, where, ranks)
    except RuntimeError as error:
        if ranks.size == 1 or not (line := lost_contact(error)):
            raise
        raise line from error


def _rest_of(minutes: float, seconds_gone: float) -> float:
    """What is left of --minutes, those of a job however often it is started; a moment, where they are over."""
    return max(minutes - seconds_gone / 60, 1e-9)


def _check_gpus(gpus: int, device: str) -> None:
    import torch

    there = torch.cuda.device_count()  # asked without taking any of them
    if gpus > there and (device.startswith("cuda") or (device == "auto" and there)):
        raise UsageError(f"--gpus {gpus}: this machine has {there}")


def _begin(out: Path, request: Request, device: "torch.device", ranks: "Ranks") -> None:
    """A new run; or, where torchrun starts a job again that had begun one, that run."""
    from t2i.data.mixture import open_datasets
    from t2i.training.begin_with import find_source
    from t2i.training.checkpoint import list_checkpoints
    from t2i.training.distributed import RestartNote
    from t2i.training.run import Run
    from t2i.training.settings import new_settings
    from t2i.training.tables import check_together

    note = RestartNote(out, console.arguments())
    if (begun := ranks.share(begun_before() or note.begun())) and list_checkpoints(begun / "checkpoints"):
        minutes = Run(begun).read_config()[0].schedule.minutes
        limits = {} if minutes is None else {"schedule.minutes": _rest_of(minutes, seconds_gone())}
        _resume(Run(begun), Request([], None, limits, None, False, ranks.size), device, ranks)
        if ranks.first:
            note.remove()
        return
    dataset = open_datasets(request.data or [_newest_dataset()], request.weights)
    dataset.check()
    settings, origin = new_settings(dataset, request.flags, request.config, device.type)
    settings = _with_threads(settings, device)
    check_together(settings, request.processes)
    if settings.begin_with:
        find_source(settings.begin_with).check(settings, dataset)
    show(settings, origin, dataset, device, request)
    if ranks.first and dataset.caption_count < 2:
        console.warn("all captions are the same: there is no wrong one to learn from, so prompts will not be followed")
    if ranks.first and settings.schedule.warm_up_kimg >= settings.schedule.kimg:
        whole = f"warm_up_kimg {settings.schedule.warm_up_kimg:g} is all of a run of {settings.schedule.kimg:g} kimg"
        console.warn(f"{whole}: no discriminator will be trained")
    if request.dry_run:
        return
    _check_extras(settings, dataset)
    run = Run(ranks.share(Run.begin(out, settings, dataset, device).folder if ranks.first else None))
    if ranks.first:
        note.write(run.folder)
    _train(settings, dataset, run, device, ranks, resume=False)
    if ranks.first:
        note.remove()


def _with_threads(settings: TrainConfig, device: "torch.device") -> TrainConfig:
    """The number of threads is chosen once, by --threads or the machine, and kept in the run."""
    import torch

    if device.type != "cpu" or settings.run.threads:
        return settings
    return settings.changed(run__threads=torch.get_num_threads())


def _check_extras(settings: TrainConfig, dataset: "PreparedDataset") -> None:
    """Can a run be scored and tracked? What it lacks shows before a folder is made or an option remembered."""
    from t2i.evaluation.features import load_lite2
    from t2i.training.scoring import held_out
    from t2i.training.trackers import check_installed

    check_installed(settings)
    if settings.eval.every:
        held_out(settings, dataset)
        load_lite2()


def _resume(run: "Run", request: Request, device: "torch.device", ranks: "Ranks") -> None:
    """An existing run."""
    import torch

    from t2i.training.settings import resumed_settings
    from t2i.training.tables import check_together

    if request.weights:
        raise UsageError("--weights cannot change a run that is resumed; they are in its config.json")
    settings, dataset = resumed_settings(run, request.data, request.flags, request.config)
    settings = _with_threads(settings, device)
    check_together(settings, request.processes)
    if request.dry_run:
        show(settings, {}, dataset, device, request)
        return
    _check_extras(settings, dataset)
    if ranks.first and device.type == "cpu" and settings.run.threads != (here := torch.get_num_threads()):
        console.say(f"{settings.run.threads} threads, as the run began ({here} here); --threads changes it")
    _train(settings, dataset, run, device, ranks, resume=True)


def _newest_dataset() -> Path:
    from t2i.data.prepared import PreparedDataset, find_datasets

    held_out = []
    for path in reversed(find_datasets()):
        try:
            if not PreparedDataset(path).held_out:
                return path
            held_out.append(path)
        except UserError as error:
            console.warn(f"passed over {path}: {error}")
    if held_out:
        raise UserError(
            f"only held-out data in t2i-data/ ({held_out[0].name}); prepare a training split, or name what to train on"
        )
    raise UserError("no prepared data set in t2i-data/; make one first: t2i prepare --coco PATH, or --shapes 2000")


def _train(
    settings: TrainConfig, dataset: "PreparedDataset", run: "Run", device: "torch.device", ranks: "Ranks", resume: bool
) -> None:
    from t2i.locks import lock
    from t2i.models.find import model_name
    from t2i.training.loop import train as run_training
    from t2i.training.schedule import Schedule

    caught: list[int] = []  # signals

    def say(line: str) -> None:
        if ranks.first:
            run.log(line)
            with heard(caught):
                console.say(line)

    # Rank 0 alone writes; its lock keeps a second training out of the run folder.
    with lock(run.folder, "training") if ranks.first else nullcontext():
        if ranks.first:
            if resume:
                run.keep_config(settings, dataset)
            run.log(" ".join(["t2i", *console.arguments()]))
            tell({"run": str(run.folder)})
            with heard(caught):
                console.say(f"run: {run.folder}")
        shown = progress(run, caught) if ranks.first else nullcontext(lambda status: None)
        with _signals(caught, ranks), shown as show:
            outcome = run_training(
                settings, dataset, run, device,
                resume=resume, ranks=ranks, stop=lambda: bool(caught), on_status=show, say=say,
            )  # fmt: skip
        model = model_name(run.model) if run.model else run.folder
        say(f"{outcome.images_seen:,} images seen, {outcome.seconds / 60:.1f} minutes; model: {model}")
        if resume and outcome.reason == "done" and outcome.images_seen == outcome.began_at:
            say(f"nothing was left to do: the goal of {settings.schedule.kimg:g} kimg is reached; --kimg raises it")
        if outcome.reason == "patience":
            best = (run.read_best() or {}).get("snapshot", 0)
            say(f"no better score in {settings.eval.patience} scores: the best is {run.folder}@best, {best:,} images")
        schedule = Schedule(settings, dataset.resolution)
        if (reached := schedule.growth_after(outcome.images_seen).resolution) < dataset.resolution:
            say(f"it has grown to {reached} px only (stages: {schedule.describe()})")
        if not schedule.discriminator_trained(outcome.images_seen):
            begins = f"{settings.schedule.warm_up_kimg:g} kimg"
            say(f"this was the warm-up only: a discriminator trains from {begins} on")
        ranks.leave()
        if outcome.reason == "signal":
            number = caught[0] if caught else signal.SIGTERM  # another rank's signal: torchrun's end of the job
            if not ranks.first:
                raise Exit(128 + number)
            stopped = console.Stopped(number, f"go on with: t2i train --resume {shell_word(run.folder)}")
            run.log(str(stopped))
            raise stopped
    prompt = dataset.caption(int(dataset.caption_ids(0)[0]))
    console.say(f"t2i generate {shell_word(prompt)} --model {shell_word(run.folder)} -o out.png")


@contextmanager
def _signals(caught: list[int], ranks: "Ranks") -> "Iterator[None]":
    """Collects SIGINT, SIGTERM and SIGHUP; a second one falls through to the default and leaves at once.

    A process among others has both, its own and the one that is sent on to all: its launcher knows what a second means.
    """

    def catch(number: int, frame: Any) -> None:
        caught.append(number)
        signal.signal(number, signal.SIG_IGN if ranks.size > 1 or comes_twice(number) else signal.SIG_DFL)
        if ranks.size == 1:
            with heard([]):
                console.err.print("t2i: stopping at the next step; once more to leave at once", markup=False)

    before = {number: signal.signal(number, catch) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
