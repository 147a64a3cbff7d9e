"""The settings of a run: of a new one from command line, config file and preset; of a resumed one from its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2i.config import COMMAND_LINE, DEFAULT, FIELDS, TrainConfig, check_value, option, type_of
from t2i.data import DATA_ROOT
from t2i.data.mixture import open_datasets
from t2i.data.prepared import PreparedDataset
from t2i.errors import UsageError, UserError
from t2i.files import shell_word
from t2i.models import get_architecture
from t2i.presets import list_presets, preset_file, read_preset
from t2i.setting_layers import Layers, check_needs, read_toml
from t2i.toml_tables import flatten
from t2i.training.begin_with import find_source
from t2i.training.run import Run, find_data
from t2i.training.schedule import Schedule
from t2i.training.tables import check_losses, check_networks, check_together, complete, for_each_network

WARM_UP = 0.25  # of a run, at the most, is a preset's warm-up: of its own length it is 3 to 16 %
MAY_CHANGE = (
    "schedule.kimg", "schedule.minutes", "optim.accumulate", "run.checkpoint_minutes", "run.threads", "eval.every",
    "eval.best_by", "eval.patience", "run.on_nan", "run.sample_prompts",
)  # fmt: skip  # of a run that is resumed: none of them changes a step


def new_settings(
    dataset: PreparedDataset, flags: Mapping[str, Any], config: Path | None, device: str
) -> tuple[TrainConfig, dict[str, str]]:
    """The settings of a new run, and where each came from: "default", a preset, a file, the command line.

    flags: {dotted name: value} of the command line. config: a run.toml. device: its type, which picks the preset
    "auto". Raises UsageError or UserError, one line.
    """
    file = read_toml(config) if config else {}
    named = {**file, **flags}
    layers, resolution = Layers(), dataset.resolution
    source = find_source(str(named["begin_with"])) if named.get("begin_with") else None
    begun = source.settings(named, resolution) if source else {}
    path, preset = _find_preset({**begun, **named}, flags, config, device)
    settings, nearest = read_preset(path, resolution)
    for name, value in settings.items():
        if name in FIELDS:
            check_value(f"preset {preset}: {name}", type_of(name), value, FIELDS[name].metadata)
    arch = str(named.get("arch", settings.get("arch", TrainConfig.arch)))
    if "schedule.stages" in settings:
        settings["schedule.stages"] = _stages_beside(named, settings["schedule.stages"])
    _give_way(settings, {**begun, **named})
    layers.add(f"preset {preset}", {**settings, "arch": arch, "preset": preset})
    kimg = named.get("schedule.kimg")
    layers.add(f"preset {preset}, for a run of {kimg} kimg", _shortened(named, settings))
    layers.add(f"begins with {named.get('begin_with')}", {n: value for n, value in begun.items() if n != "preset"})
    layers.add(str(config), {name: value for name, value in file.items() if name != "preset"})
    layers.add(COMMAND_LINE, {name: value for name, value in flags.items() if name != "preset"})
    if layers.values.get("text.encoder") == "transformer" and "loss.contrastive.weight" not in layers.values:
        layers.add("a trained text encoder needs it", {"loss.contrastive.weight": 1.0})
    check_networks(layers, named)
    layers.add(str(config), for_each_network(layers.values, file))
    check_losses(layers, named)
    layers.values = complete(layers.values)
    resolved = layers.build()
    if nearest != resolution:
        layers.origin["preset"] = f"its settings for {nearest} px"
    check_together(resolved)
    check_needs(layers, resolved, [name for name in named if name in FIELDS])
    if flags.get("schedule.growing") and len(Schedule(resolved, resolution).stages) == 1:
        raise UsageError(
            f"--growing has no effect: {resolution} px would be the only stage; leave it out, or begin below with "
            "[[schedule.stages]] in a run.toml"
        )
    return resolved, layers.origin


def _find_preset(
    named: Mapping[str, Any], flags: Mapping[str, Any], config: Path | None, device: str
) -> tuple[Path, str]:
    """The preset's file and name. Raises UsageError, one line."""

    def called(name: str) -> str:
        return f"{config}: {name}" if config is not None and name not in flags else option(name)

    name = named.get("preset", "auto")
    if isinstance(name, str) and name.endswith(".toml"):
        return Path(name), name
    try:
        arch = get_architecture(str(named.get("arch", TrainConfig.arch))).name
    except ValueError as error:
        raise UsageError(f"{called('arch')}: {error}") from error
    presets = list_presets(arch)
    if name == "auto":
        # Their warm-up draws what captions say, which an encoder that is trained has yet to learn.
        fast = "fast" in presets and named.get("text.encoder", "prepared") == "prepared"
        name = "small" if not fast else "wide" if device == "cuda" else "fast"
        name = name if name in presets else presets[0]
    if name not in presets:
        raise UsageError(f"{called('preset')} {name}: {arch} has {', '.join(presets)}; a file's name ends in .toml")
    path = preset_file(arch, name)
    assert path is not None
    return path, name


def _give_way(settings: dict[str, Any], named: Mapping[str, Any]) -> None:
    """Take out of a preset's settings what does not go with those that the user named."""
    if named.get("loss.energy.weight") == 0:
        for name in ("loss.energy.features", "loss.energy.repulsion", "schedule.warm_up_kimg", "schedule.warm_up_lr"):
            settings.pop(name, None)
    kind = named.get("model.discriminator.kind", settings.get("model.discriminator.kind"))
    if kind != settings.get("model.discriminator.kind"):
        for name in [name for name in settings if name.startswith("model.discriminator.")]:
            del settings[name]  # of another discriminator
    if kind != "projected":
        settings.pop("loss.energy.features", None)  # it has no frozen backbone
    choices = ("loss.adversarial.kind", "loss.penalty.kind")
    chosen = [name for name in choices if named.get(name, settings.get(name)) != settings.get(name)]
    if chosen:
        # Weight and laziness were the preset's for its own choice; a Wasserstein critic brings its penalty.
        settings.pop("loss.penalty.weight", None)
        settings.pop("loss.penalty.every", None)
        if named.get("loss.adversarial.kind") == "wgan-gp":
            settings["loss.penalty.kind"] = "wgan-gp"
        elif settings.get("loss.penalty.kind") == "wgan-gp":
            settings["loss.penalty.kind"] = "r1"


def _shortened(named: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, float]:
    """warm_up_kimg and grow_kimg of a preset for a run too short for them; {} for one that is long enough.

    Both by the same factor: where a preset grows, the warm-up ends as one of its stages does.
    """
    kimg = named.get("schedule.kimg")
    if not isinstance(kimg, int | float) or kimg <= 0:
        return {}
    warm_up, grow = "schedule.warm_up_kimg", "schedule.grow_kimg"
    found: dict[str, float] = {}
    begins = {name: settings[name] for name in (warm_up, grow) if name in settings and name not in named}
    if not named.get("schedule.growing", settings.get("schedule.growing")):
        begins.pop(grow, None)
    enough = max(begins.get(warm_up, 0) / WARM_UP, begins.get(grow, 0))
    if kimg < enough:
        found |= {name: value * kimg / enough for name, value in begins.items()}
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def _stages_beside(named: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A preset's stages, without the batches and learning rates that a user's own take the place of."""
    ours = {"batch": "optim.batch" in named, "lr": "optim.lr_g" in named or "optim.lr_d" in named}
    return [{name: value for name, value in stage.items() if not ours.get(name)} for stage in stages]


def resumed_settings(
    run: Run, data: Sequence[Path], flags: Mapping[str, Any], config: Path | None
) -> tuple[TrainConfig, PreparedDataset]:
    """The settings and the data set of a run to resume. Only how long it trains may change.

    Raises UsageError or UserError, one line that names the difference.
    """
    settings, facts = run.read_config()
    if gone := run.gone_settings():
        raise UserError(
            f"{run.folder} was trained with {', '.join(gone)}, gone since 0.2: it cannot be resumed; "
            f"t2i train --begin-with {run.folder} begins a new run with it"
        )
    if config is not None:
        raise UsageError("--config cannot change a run that is resumed; its settings are in its config.json")
    values = flatten(settings.tables())
    for name, value in flags.items():
        if name not in MAY_CHANGE and values.get(name) != value:
            raise UsageError(
                f"{option(name)} {value} differs from the run's {values.get(name)}; a resumed run keeps its settings, "
                f"but for {', '.join(option(name) for name in MAY_CHANGE)}"
            )
    changes = {
        **{name: flags[name] for name in MAY_CHANGE if name in flags},
        "schedule.minutes": flags.get("schedule.minutes"),  # those of the run were of its first part
    }
    if settings.schedule.growing:  # a longer run does not grow again
        changes["schedule.grow_kimg"] = settings.schedule.grow_kimg or settings.schedule.kimg
    layers = Layers()
    layers.add(DEFAULT, values)
    layers.add(COMMAND_LINE, changes)
    settings = layers.build()
    check_needs(layers, settings, [name for name in flags if name in FIELDS])
    return settings, _data_of(run, data, facts)


def _data_of(run: Run, data: Sequence[Path], facts: Mapping[str, Any]) -> PreparedDataset:
    """The data of a run: those that are named, else those that it remembers. Raises UserError, one line, where they are
    not to be found, or are others by now."""
    weights = facts.get("weights")
    dataset = open_datasets(data, weights) if data else find_data(facts.get("fingerprint"), run.folder)
    path = Path(str(facts.get("path")))
    if dataset is None and (path / "dataset.json").is_file():
        dataset = PreparedDataset(path)  # another one by now
    if dataset is None:
        raise UserError(
            f"{path}: the data set that {run.folder} was trained on is not there, nor in {DATA_ROOT}/; "
            f"name it: t2i train DATA --resume {shell_word(run.folder)}"
        )
    if dataset.fingerprint != facts.get("fingerprint"):
        raise UserError(
            f"{dataset.path} is not the data set that {run.folder} was trained on (its fingerprint differs); "
            "name that one, or start a new run"
        )
    return dataset
