"""What `t2i train` is about to do: ten lines; of a dry run all settings, and how long it would take."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from t2i.cli import console
from t2i.config import TrainConfig
from t2i.errors import UsageError, UserError
from t2i.files import first_line

if TYPE_CHECKING:
    import torch

    from t2i.data.prepared import PreparedDataset


class Request(NamedTuple):
    """What the command line asks for, whether the run is new or not."""

    data: list[Path]
    weights: list[int] | None
    flags: dict[str, Any]
    config: Path | None
    dry_run: bool
    processes: int  # that the run has, or would have where this is a dry run


def show(
    settings: TrainConfig,
    origin: dict[str, str],
    dataset: "PreparedDataset",
    device: "torch.device",
    request: Request,
) -> None:
    """The ten lines that training begins with; for a dry run all settings as well, as a TOML file.

    origin: where each setting came from; {} for a run that is resumed.
    """
    from t2i.models import get_architecture
    from t2i.toml_tables import to_toml
    from t2i.training.tables import effective, help_for

    rows = _rows(settings, origin, dataset, device, request)
    title = f"{settings.arch}: {get_architecture(settings.arch).summary}"
    if not request.dry_run:
        console.table(title, rows)
        return
    console.say(f"# {title}")
    for name, value in rows.items():
        console.say(f"# {name:<9} {value}")
    console.say("")
    console.say(to_toml(effective(settings), help_for).rstrip())
    if request.processes == 1:
        from t2i.training.rehearsal import rehearse

        console.say("")
        for line in rehearse(settings, dataset, device).lines(settings):
            console.say(f"# {line}")


def _rows(
    settings: TrainConfig,
    origin: dict[str, str],
    dataset: "PreparedDataset",
    device: "torch.device",
    request: Request,
) -> dict[str, str]:
    """The lines but for the title, {what: value}."""
    from t2i.config import COMMAND_LINE
    from t2i.presets import about, preset_file
    from t2i.toml_tables import flatten
    from t2i.training.schedule import Schedule

    generator, discriminator = _weights(settings, dataset)
    values, schedule = flatten(settings.tables()), Schedule(settings, dataset.resolution)
    named = [name for name, source in origin.items() if source in (COMMAND_LINE, str(request.config))]
    ours = [f"{name} {values[name]}" for name in named if name in values and name not in ("arch", "preset")]
    path = preset_file(settings.arch, settings.preset)
    preset = settings.preset + (f": {about(path)}" if path and path.is_file() else "")
    if (chosen := origin.get("preset", "")).startswith("its settings for"):
        preset += f" [{chosen}]"
    losses = [settings.adversarial.kind, *(f"{name} {next(iter(t.values())):g}" for name, t in settings.terms.items())]
    if settings.penalty.kind != "none":
        losses.insert(1, settings.penalty.kind)
    minutes = settings.schedule.minutes
    length = f"{settings.schedule.kimg:g} kimg" + (f", at most {minutes:g} minutes" if minutes else "")
    where = f"{device}, {settings.optim.precision}"
    if device.type == "cpu":
        where += f", {settings.run.threads} thread{'s' * (settings.run.threads != 1)}"
    if request.processes > 1:
        where += f", {request.processes} processes"
    folders = " and ".join(str(part.path) for part in dataset.parts)
    return {
        "data": f"{folders} ({len(dataset):,} images, {dataset.form.in_words(dataset.resolution)})",
        "device": where,
        "networks": f"generator {generator:.2f} M, {settings.discriminator_kind} discriminator {discriminator:.2f} M "
        "weights",
        "preset": preset,
        "length": f"{length}; batch {settings.optim.batch}, seed {settings.run.seed}",
        "stages": schedule.describe() if settings.schedule.growing else "none, full size from the start",
        "losses": ", ".join(losses),
        "yours": ", ".join(ours) or ("nothing differs from the preset" if origin else "as the run began"),
    }


def _weights(settings: TrainConfig, dataset: "PreparedDataset") -> list[float]:
    """Millions of weights of the generator and of the discriminator. Raises UsageError where settings make none."""
    from t2i.text.pooler import TextStatistics
    from t2i.training.trainer import make_networks

    width = settings.transformer.width if settings.text.encoder == "transformer" else dataset.text["width"]
    try:
        networks = make_networks(settings, dataset.resolution, TextStatistics.identity(width))
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        options = {**settings.generator, **settings.discriminator}
        chosen = ", ".join(f"{name} {value}" for name, value in options.items())
        raise UsageError(
            f"{settings.arch} cannot be built at {dataset.resolution} px with {chosen} ({first_line(error)})"
        ) from error
    return [sum(parameter.numel() for parameter in network.parameters()) / 1e6 for network in networks]
