"""The settings of a run: of a new one from command line, config file and preset; of a resumed one from its folder."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2i.config import COMMAND_LINE, TrainConfig, option, read_toml, resolve
from t2i.data import DATA_ROOT
from t2i.data.prepared import PreparedDataset
from t2i.errors import UsageError, UserError
from t2i.files import read_json, shell_word
from t2i.models import get_architecture
from t2i.models.growing import Growth
from t2i.text.transformer import SETTINGS, SMALL
from t2i.training.checkpoint import list_checkpoints, newest_checkpoint
from t2i.training.growth import Schedule
from t2i.training.run import Run, find_data

BLURRED = 0.1  # of a run, at the most, with a preset's blur_kimg
PRETRAINED = 0.25  # of a run, at the most, is a preset's pretraining: of its own length it is 3 to 16 %


def contrast_weight(config: TrainConfig) -> float:
    """Weight of the contrastive term: a trained encoder needs it."""
    if config.contrastive is not None:
        return config.contrastive
    return 1.0 if config.text_encoder == "transformer" else 0.0


def _named_in(setting: str, flags: dict[str, Any], config: Path | None) -> str:
    return f"{config}: {setting}" if config is not None and setting not in flags else option(setting)


def new_settings(
    dataset: PreparedDataset, flags: dict[str, Any], config: Path | None, device: str
) -> tuple[TrainConfig, dict[str, str]]:
    """The settings of a new run, and where each came from; see config.resolve.

    flags: {setting: value} of the command line. config: a run.toml. device: its type, which picks the preset "auto".
    Raises UsageError or UserError, one line.
    """
    file = read_toml(config) if config else {}
    named = {**file, **flags}
    begun = _taken_over(named, dataset.resolution)
    named = {**{name: begun[name] for name in ("arch", "preset") if name in begun}, **named}
    begun.pop("preset", None)
    try:
        architecture = get_architecture(str(named.get("arch", TrainConfig.arch)))
    except ValueError as error:
        raise UsageError(f"{_named_in('arch', flags, config)}: {error}") from error
    preset = str(named.get("preset", "auto"))
    if preset == "auto":
        # `fast` begins by likeness to what captions say, which an encoder that is trained has yet to learn.
        fast = "fast" in architecture.presets and named.get("text_encoder", "prepared") == "prepared"
        preset = ("wide" if fast else "paper") if device == "cuda" else ("fast" if fast else "small")
        preset = preset if preset in architecture.presets else next(iter(architecture.presets))
    if preset not in architecture.presets:
        place = _named_in("preset", flags, config)
        raise UsageError(f"{place} {preset}: {architecture.name} has {', '.join(architecture.presets)}")
    rows = architecture.presets[preset]
    nearest = min(rows, key=lambda resolution: abs(resolution - dataset.resolution))
    row = dict(rows[nearest])
    model = {name: row.pop(name) for name in list(row) if name in architecture.model_options} | begun.pop("model", {})
    _check_table("model", file.get("model", {}), architecture.model_options, architecture.name, config)
    _check_table("encoder", file.get("encoder", {}), SETTINGS, "the transformer text encoder", config)
    settings = {**architecture.defaults, **row, "preset": preset, "model": model}
    if named.get("text_encoder") == "transformer":
        settings["encoder"] = SMALL if preset == "small" else {}
    elif file.get("encoder"):
        raise UsageError(f"{config}: [encoder] is for --text-encoder transformer")
    if "stages" in settings:
        settings["stages"] = _stages_beside(named, settings["stages"])
    if named.get("nearest_of", 1) != 1 or named.get("likeness") == 0:
        settings.pop("noise_kl", None)  # the preset's way to variety gives way to another, and to none
    if {**model, **file.get("model", {})}.get("discriminator") != "projected":
        settings.pop("perceptual", None)  # nothing frozen looks
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
        (f"preset {preset}, for a run of {named.get('kimg')} kimg", _shortened(named, settings)),
        (f"goes on from {named.get('begin_with')}", begun),
        (str(config), {name: value for name, value in file.items() if name != "preset"}),
        (COMMAND_LINE, {name: value for name, value in flags.items() if name != "preset"}),
    )
    if nearest != dataset.resolution:
        origin["preset"] = f"its settings for {nearest} px"
    if "best_by" in named and resolved.eval_every is None:
        raise UsageError("--best-by needs --eval-every: only a run that is scored has a best model")
    check_together(resolved)
    _check_ignored(named, resolved, origin, dataset.resolution)
    return resolved, origin


def _taken_over(named: Mapping[str, Any], resolution: int) -> dict[str, Any]:
    """What a run has from the one that it begins with, where nothing else is named: the shape of its networks, and
    that it need not learn by likeness, blurred, or grow once more. Raises UserError, one line."""
    if not isinstance(folder := named.get("begin_with"), str):
        return {}
    source = Run(folder)
    theirs, facts = source.read_config()
    if named.get("arch", theirs.arch) != theirs.arch or facts.get("resolution") != resolution:
        return {}  # check_source says why they do not go together
    found = {name: getattr(theirs, name) for name in ("arch", "preset", "conditioning", "model")}
    seen = max((int(path.name) for path in list_checkpoints(source.checkpoints)), default=0)
    schedule = Schedule(theirs, resolution)
    if schedule.judged(seen):
        found |= {"pretrain_kimg": 0.0, "blur_kimg": 0.0}
    if get_architecture(theirs.arch).grows and schedule.latest(seen) == Growth(resolution):
        found["growing"] = False
    return found


def _shortened(named: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, float]:
    """pretrain_kimg, grow_kimg and blur_kimg of a preset for a run too short for them; {} for one that is long enough.

    The first two by the same factor: where a preset grows, likeness ends as one of its stages does.
    """
    kimg = named.get("kimg")
    if not isinstance(kimg, int | float) or kimg <= 0:
        return {}
    found = {}
    if "blur_kimg" not in named and settings.get("blur_kimg", 0) > BLURRED * kimg:
        found["blur_kimg"] = BLURRED * kimg
    begins = {name: settings[name] for name in ("pretrain_kimg", "grow_kimg") if name in settings and name not in named}
    if not named.get("growing", settings.get("growing")):
        begins.pop("grow_kimg", None)
    enough = max(begins.get("pretrain_kimg", 0) / PRETRAINED, begins.get("grow_kimg", 0))
    if kimg < enough:
        found |= {name: value * kimg / enough for name, value in begins.items()}
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def _stages_beside(named: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A preset's stages, without the batches and learning rates that a user's own take the place of."""
    ours = {"batch": "batch" in named, "lr": "lr_g" in named or "lr_d" in named}
    return [{name: value for name, value in stage.items() if not ours.get(name)} for stage in stages]


def _check_ignored(named: Mapping[str, Any], settings: TrainConfig, origin: Mapping[str, str], resolution: int) -> None:
    """Raises UsageError where a setting that the user named has no effect beside the others."""

    def called(name: str) -> str:
        return option(name) if origin[name] == COMMAND_LINE else f"{origin[name]}: {name}"

    if settings.penalty == "none":
        for name in ("penalty_every", "penalty_weight"):
            if name in named:
                whose = "" if "penalty" in named else f" ({origin['penalty']})"
                raise UsageError(f"{called(name)} has no effect: there is no penalty here, --penalty is none{whose}")
    # A run.toml may serve data of several resolutions.
    if named.get("growing") and origin["growing"] == COMMAND_LINE and len(Schedule(settings, resolution).spans) == 1:
        raise UsageError(
            f"--growing has no effect: {resolution} px would be the only stage; leave it out, or begin below with "
            "[[stages]] in a run.toml"
        )


def check_together(settings: TrainConfig, ranks: int = 1) -> None:
    """Raises UsageError where a setting makes no sense with the architecture, or with so many ranks."""
    architecture = get_architecture(settings.arch)
    if settings.growing and not architecture.grows:
        raise UsageError(f"--growing: {architecture.name} has one size; it does not grow")
    if settings.places and not contrast_weight(settings):
        raise UsageError("places needs a contrastive term, whose weight is 0 here: set contrastive = 1.0")
    if settings.perceptual and settings.model.get("discriminator") != "projected":
        raise UsageError('perceptual looks through a frozen network: it needs [model] discriminator = "projected"')
    if settings.conditioning == "sentence" and settings.model.get("text_layers"):
        raise UsageError("[model] text_layers reads tokens; --conditioning sentence has none")
    pieces = settings.accumulate * ranks
    batches = [stage.batch or settings.batch for stage in settings.stages] if settings.growing else [settings.batch]
    for batch in batches:
        if batch % pieces:
            raise UsageError(
                f"a batch of {batch} cannot be divided among {ranks} processes and --accumulate {settings.accumulate}; "
                "choose another --batch"
            )
        if pieces > 1 and batch // pieces % architecture.group:
            raise UsageError(
                f"a batch of {batch} falls into {pieces} pieces of {batch // pieces} (--accumulate, processes); "
                f"{architecture.name} compares pictures in groups of {architecture.group}, "
                "so a piece must be a multiple of that"
            )


def check_source(settings: TrainConfig, dataset: PreparedDataset) -> None:
    """Can a new run begin with the networks of `begin_with`? Raises UsageError or UserError, one line."""
    if settings.begin_with is None:
        return
    source = Run(settings.begin_with)
    theirs, facts = source.read_config()
    if "transformer" in (settings.text_encoder, theirs.text_encoder):
        raise UsageError(
            "--begin-with is for runs with the frozen text encoder: the vocabulary of a trained one is its run's own"
        )
    options = get_architecture(settings.arch).model_options
    here, there = (
        {"resolution": resolution, "arch": s.arch, "conditioning": s.conditioning, **options, **s.model}
        for s, resolution in ((settings, dataset.resolution), (theirs, facts.get("resolution")))
    )
    for name, value in here.items():
        if there.get(name) != value:
            raise UsageError(f"--begin-with {source.folder}: its {name} is {there.get(name)}, here it is {value}")
    encoder = read_json(source.model / "model_index.json", "model description").get("text_encoder")
    if not isinstance(encoder, dict) or encoder.get("sha256") != dataset.text["sha256"]:
        raise UserError(
            f"{dataset.path} was prepared with another text encoder than {source.folder} was trained with; "
            "prepare it with that one"
        )
    newest_checkpoint(source.checkpoints, ours=False)


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


def resumed_settings(
    run: Run, data: Path | None, flags: dict[str, Any], config: Path | None
) -> tuple[TrainConfig, PreparedDataset]:
    """The settings and the data set of a run to go on with. Only how long it trains may change.

    Raises UsageError or UserError, one line that names the difference.
    """
    settings, facts = run.read_config()
    if unknown := run.unknown_settings():
        raise UserError(
            f"{run.folder} was begun with {', '.join(unknown)}, which this t2i does not know; "
            "go on with the version in its config.json"
        )
    if config is not None:
        raise UsageError("--config cannot change a run that is resumed; its settings are in its config.json")
    may_change = (
        "kimg",
        "minutes",
        "accumulate",
        "checkpoint_minutes",
        "eval_every",
        "best_by",
        "on_nan",
    )  # none of them changes a step
    changed = [name for name, value in flags.items() if name not in may_change and getattr(settings, name) != value]
    if changed:
        raise UsageError(
            f"--{changed[0].replace('_', '-')} {flags[changed[0]]} differs from the run's "
            f"{getattr(settings, changed[0])}; a resumed run keeps its settings, but for "
            f"{', '.join(option(name) for name in may_change)}"
        )
    settings = dataclasses.replace(
        settings,
        **{name: flags[name] for name in may_change if name in flags and name != "minutes"},
        minutes=flags.get("minutes"),  # those of the run were of its first part
        grow_kimg=settings.grow_kimg or settings.kimg,  # a longer run does not grow again
    ).check()
    if "best_by" in flags and settings.eval_every is None:
        raise UsageError("--best-by needs --eval-every: only a run that is scored has a best model")
    dataset = PreparedDataset(data) if data else find_data(facts.get("fingerprint"), run.folder)
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
    return settings, dataset
