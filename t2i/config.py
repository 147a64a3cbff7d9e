"""Settings of a training run: their groups, their checks, and the order in which sources win.

A setting has a dotted name, "optim.lr_g", which in a TOML file is the key `lr_g` of the table [optim]. A value comes
from the first of these that has one: the command line, the config file (`--config run.toml`), the preset, the default.
"""

import dataclasses
import itertools
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from t2i.errors import UsageError
from t2i.toml_tables import flatten, set_dotted

COMMAND_LINE, DEFAULT = "command line", "default"  # sources of a value


def setting(
    default: Any,
    help: str,
    *,
    option: str | None = None,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    needs: str | None = None,
    paper: str = "",
) -> Any:
    """A field of a group of settings.

    help: one line that ends in a full stop. option: its option of `t2i train`. above, least, below, most: its range.
    needs: the dotted name of the setting without which it has no effect, or "name=value". paper: where it is from.
    """
    metadata = {"help": help, "option": option, "needs": needs, "paper": paper,
                "above": above, "least": least, "below": below, "most": most}  # fmt: skip
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Text:
    """[text]: how captions enter both networks."""

    conditioning: Literal["attention", "sentence"] = setting(
        "attention",
        "Attention pooling over the tokens, or one sentence vector.",
        option="--conditioning",
        paper="sentence: Tao et al. 2022",
    )
    encoder: Literal["prepared", "transformer"] = setting(
        "prepared",
        "prepared: the frozen encoder that prepare ran; transformer: one trained with the GAN.",
        option="--text-encoder",
    )
    layers: int = setting(
        0,
        "Self-attention layers over the tokens before they are pooled.",
        least=0,
        needs="text.conditioning=attention",
        paper="ALiBi: Press et al. 2022",
    )
    lr_multiplier: float = setting(1.0, "Learning-rate multiplier of the layers that read text.", above=0)


@dataclass(frozen=True)
class Transformer:
    """[text.transformer]: the text encoder that is trained with the GAN."""

    vocabulary: int = setting(4096, "Subwords in the vocabulary.", least=1, needs="text.encoder=transformer")
    width: int = setting(256, "Width of a token embedding.", least=1, needs="text.encoder=transformer")
    layers: int = setting(
        6, "Transformer layers.", least=1, needs="text.encoder=transformer", paper="Vaswani et al. 2017"
    )
    heads: int = setting(8, "Attention heads a layer.", least=1, needs="text.encoder=transformer")
    feed_forward: int = setting(2048, "Width of the feed-forward layers.", least=1, needs="text.encoder=transformer")
    max_tokens: int = setting(100, "Longest caption, in tokens.", least=1, needs="text.encoder=transformer")
    dropout: float = setting(0.1, "Dropout within the layers.", least=0, below=1, needs="text.encoder=transformer")


@dataclass(frozen=True)
class Optim:
    """[optim]: optimisers, batches, precision."""

    batch: int = setting(32, "Images per step, over all micro-batches and processes.", option="--batch", least=2)
    accumulate: int = setting(
        1, "Split a batch into this many micro-batches, to save memory.", option="--accumulate", least=1
    )
    lr_g: float = setting(1e-4, "Adam's learning rate of the generator.", option="--lr-g", above=0)
    lr_d: float = setting(4e-4, "Adam's learning rate of the discriminator.", option="--lr-d", above=0)
    beta1: float = setting(0.0, "Adam's beta 1.", least=0, below=1)
    beta2: float = setting(0.9, "Adam's beta 2.", least=0, below=1)
    ema_kimg: float = setting(
        10.0, "Half-life of the generator's moving average, in thousand images.", above=0, paper="Karras et al. 2018"
    )
    freeze_d: int = setting(
        0,
        "Freeze this many blocks of the discriminator, from the image on.",
        least=0,
        paper="FreezeD: Mo et al. 2020",
    )
    precision: Literal["fp32", "bf16", "fp16"] = setting(
        "fp32", "Number format of the networks; --amp chooses the quickest.", option="--precision"
    )
    cuda_graphs: bool = setting(True, "On CUDA, capture each kind of step as a CUDA graph.")


@dataclass(frozen=True)
class Stage:
    """A resolution of progressive growing: a [[schedule.stages]] table.

    share: its part of the run. batch, lr: left out, those of [optim].
    """

    resolution: int
    share: float
    batch: int | None = None
    lr: float | None = None


@dataclass(frozen=True)
class Timetable:
    """[schedule]: how long, and through which phases. Time is counted in images."""

    kimg: float = setting(1000.0, "Train until this many thousand images were seen.", option="--kimg", above=0)
    minutes: float | None = setting(
        None, "Stop after this many minutes, if that comes first.", option="--minutes", above=0
    )
    warm_up_kimg: float = setting(
        0.0,
        "For so many thousand images the generator trains alone, by the energy score of coarse colours.",
        least=0,
        needs="loss.energy.weight",
        paper="Gneiting & Raftery 2007",
    )
    warm_up_lr: float | None = setting(
        None,
        "The generator's learning rate when the warm-up begins; it falls to lr_g by a cosine.",
        above=0,
        needs="schedule.warm_up_kimg",
    )
    growing: bool = setting(
        False, "Grow progressively through the stages.", option="--growing/--no-growing", paper="Karras et al. 2018"
    )
    stages: tuple[Stage, ...] = setting((), "Resolutions to grow through, a table each.", needs="schedule.growing")
    grow_kimg: float | None = setting(
        None,
        "Thousand images that the stages are shares of; left out, kimg.",
        above=0,
        needs="schedule.growing",
    )
    fade: float = setting(
        0.5, "Share of a stage in which its resolution fades in.", least=0, most=1, needs="schedule.growing"
    )


@dataclass(frozen=True)
class Adversarial:
    """[loss.adversarial]: the GAN loss and what the discriminator sees."""

    kind: Literal["hinge", "logistic", "wgan-gp", "relativistic"] = setting(
        "hinge",
        "Adversarial loss.",
        option="--loss",
        paper="hinge: Lim & Ye 2017; logistic: Goodfellow et al. 2014; wgan-gp: Gulrajani et al. 2017; "
        "relativistic: Jolicoeur-Martineau 2019",
    )
    mismatches: int = setting(
        1, "Wrong captions that the discriminator sees with each real image.", least=1, paper="Reed et al. 2016"
    )
    shared_fakes: bool = setting(
        False, "The generator learns from the images that the discriminator has just seen: one drawing a step."
    )
    augment: tuple[Literal["translation", "cutout", "flip"], ...] = setting(
        ("translation",),
        "DiffAugment of real and generated images; flip: real ones mirrored where captions allow; [] for none.",
        paper="Zhao et al. 2020",
    )


@dataclass(frozen=True)
class Penalty:
    """[loss.penalty]: the gradient penalty on the discriminator."""

    kind: Literal["ma-gp", "r1", "wgan-gp", "none"] = setting(
        "ma-gp",
        "Gradient penalty.",
        option="--penalty",
        paper="ma-gp: Tao et al. 2022; r1: Mescheder et al. 2018; wgan-gp: Gulrajani et al. 2017",
    )
    weight: float | None = setting(
        None,
        "Weight; left out, 2 of ma-gp, 10 of wgan-gp, 0.0002 * resolution^2 / batch of r1.",
        least=0,
        needs="loss.penalty.kind",
    )
    every: int = setting(
        1,
        "Take it every k-th step, k times as heavy.",
        option="--penalty-every",
        least=1,
        needs="loss.penalty.kind",
        paper="Karras et al. 2020",
    )


@dataclass(frozen=True)
class Evaluation:
    """[eval]: scores while a run trains."""

    every: int | None = setting(
        None,
        "Score the model on held-out images every so many images; RUN@best is the best one.",
        option="--eval-every",
        above=0,
    )
    samples: int = setting(2000, "Images drawn for a score.", least=2, most=1_000_000, needs="eval.every")
    data: str | None = setting(
        None, "Held-out data; left out, the validation split beside the training data.", needs="eval.every"
    )
    patience: int | None = setting(
        None, "End the run after so many scores without a better one.", option="--patience", least=1, needs="eval.every"
    )
    best_by: Literal["kd", "fd", "r-precision"] = setting(
        "kd", "The score that chooses the best model.", option="--best-by", needs="eval.every"
    )


@dataclass(frozen=True)
class RunSettings:
    """[run]: seed, files, limits of one process."""

    seed: int = setting(
        0, "Seed of the weights, the noise and the order of the data.", option="--seed", least=0, below=2**63
    )
    threads: int | None = setting(
        None, "CPU threads; kept in the run, since rounding depends on it.", option="--threads", least=1, most=1024
    )
    log_kimg: float = setting(1.0, "Write a line of metrics every so many thousand images.", above=0)
    snapshot_kimg: float = setting(10.0, "Write a snapshot and a sample grid every so many thousand images.", above=0)
    sample_prompts: tuple[str, ...] = setting(
        (), "Prompts of the sample grids; left out, captions of the data.", option="--sample-prompts"
    )
    keep_snapshots: int = setting(
        10, "Snapshots to keep: the last two whole, of older ones the model alone, spread over the run.", least=2
    )
    checkpoint_minutes: float | None = setting(
        None, "Also write a snapshot every so many minutes.", option="--checkpoint-minutes", above=0
    )
    on_nan: Literal["stop", "rollback"] = setting(
        "stop",
        "Where a gradient is NaN: stop, or go back to the last snapshot, at most three times.",
        option="--on-nan",
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = setting(
        (), "Send the metrics and the sample grids to these trackers too."
    )


GROUPS: dict[str, type] = {
    "text": Text, "text.transformer": Transformer, "optim": Optim, "schedule": Timetable,
    "loss.adversarial": Adversarial, "loss.penalty": Penalty, "eval": Evaluation, "run": RunSettings,
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run.

    terms: of each further loss that is in use, its table [loss.NAME]. generator, discriminator: [model.generator] and
    [model.discriminator], without `kind`, which is discriminator_kind.
    """

    arch: str = "stylegan2"
    preset: str = "auto"
    begin_with: str | None = None
    text: Text = Text()
    transformer: Transformer = Transformer()
    optim: Optim = Optim()
    schedule: Timetable = Timetable()
    adversarial: Adversarial = Adversarial()
    penalty: Penalty = Penalty()
    terms: dict[str, dict[str, Any]] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)
    discriminator_kind: str | None = None
    eval: Evaluation = Evaluation()
    run: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        if self.discriminator_kind is None:
            object.__setattr__(self, "discriminator_kind", self.arch)

    def changed(self, **values: Any) -> "TrainConfig":
        """The same with other values; names are dotted, with "__" for the dot. Raises UsageError, one line."""
        return build({**flatten(self.tables()), **{name.replace("__", "."): value for name, value in values.items()}})

    def tables(self) -> dict[str, Any]:
        """As the tables of a TOML file, plain values; `build(flatten(...))` gives the config back."""
        found: dict[str, Any] = {"arch": self.arch, "preset": self.preset, "begin_with": self.begin_with}
        for name in GROUPS:
            set_dotted(found, name, dataclasses.asdict(getattr(self, _ATTRIBUTES[name])))
        found["schedule"]["stages"] = [dataclasses.asdict(stage) for stage in self.schedule.stages]
        found["loss"].update({name: dict(table) for name, table in self.terms.items()})
        kind = {"kind": self.discriminator_kind}
        found["model"] = {"generator": dict(self.generator), "discriminator": {**kind, **self.discriminator}}
        return found


# Group -> field of TrainConfig.
_ATTRIBUTES = {"text.transformer": "transformer", "loss.adversarial": "adversarial", "loss.penalty": "penalty"}
_ATTRIBUTES = {name: _ATTRIBUTES.get(name, name) for name in GROUPS}
_TOP: dict[str, dataclasses.Field[Any]] = {
    "arch": setting("stylegan2", "Architecture of the generator.", option="--arch"),
    "preset": setting(
        "auto", "A preset of the architecture or a TOML file; auto: fast on a CPU, wide on a GPU.", option="--preset"
    ),
    "begin_with": setting(None, "Begin with the networks of a run, a snapshot or a model.", option="--begin-with"),
}
_TOP_TYPES: dict[str, Any] = {"arch": str, "preset": str, "begin_with": str | None}

# Every setting that any run has, by its dotted name; those of losses and networks come with these.
FIELDS: dict[str, dataclasses.Field] = {
    **_TOP, **{f"{name}.{f.name}": f for name, group in GROUPS.items() for f in dataclasses.fields(group)}
}  # fmt: skip
OPTIONS = {f.metadata["option"]: name for name, f in FIELDS.items() if f.metadata.get("option")}


def option(name: str) -> str:
    """How a user calls a setting: as its option, or by its dotted name where it has none."""
    given = FIELDS[name].metadata.get("option") if name in FIELDS else None
    return given.split("/")[0] if given else name


def help_of(name: str) -> str:
    """The help text of a setting."""
    return FIELDS[name].metadata["help"]


def type_of(name: str) -> Any:
    """The type of a setting's value."""
    return (
        _TOP_TYPES[name] if name in _TOP else typing.get_type_hints(GROUPS[name.rpartition(".")[0]])[FIELDS[name].name]
    )


def build(flat: Mapping[str, Any], called: Callable[[str], str] = option) -> TrainConfig:
    """A config from {dotted name: value}, each value checked against its type and its range.

    Names under loss. and model. that are not in FIELDS go to `terms`, `generator` and `discriminator` as they are.
    called: dotted name -> how a message calls it. Raises UsageError, one line.
    """
    groups: dict[str, dict[str, Any]] = {name: {} for name in GROUPS}
    top: dict[str, Any] = {}
    terms: dict[str, dict[str, Any]] = {}
    networks: dict[str, dict[str, Any]] = {"generator": {}, "discriminator": {}}
    for name, value in flat.items():
        parent, _, key = name.rpartition(".")
        match name.split("."):
            case _ if name in _TOP:
                top[name] = check_value(called(name), type_of(name), value)
            case _ if name in FIELDS:
                groups[parent][key] = check_value(called(name), type_of(name), value, FIELDS[name].metadata)
            case ["loss", term, _]:
                terms.setdefault(term, {})[key] = value
            case ["model", ("generator" | "discriminator") as network, _]:
                networks[network][key] = value
            case _:
                raise UsageError(f"{called(name)}: there is no such setting; t2i train --dry-run prints all")
    kind = networks["discriminator"].pop("kind", None)
    if kind is not None and not isinstance(kind, str):
        raise UsageError(f"{called('model.discriminator.kind')}: input should be a text, not {kind!r:.80}")
    parts = {_ATTRIBUTES[name]: group(**groups[name]) for name, group in GROUPS.items()}
    config = TrainConfig(
        **top, **parts, terms=terms, generator=networks["generator"], discriminator=networks["discriminator"],
        discriminator_kind=kind,
    )  # fmt: skip
    _check_together(config, called)
    return config


def check_value(name: str, kind: Any, value: Any, metadata: Mapping[str, Any] = {}) -> Any:
    """A plain value (JSON, TOML) as its type. Raises UsageError, one line, where it is of another type, or out of its
    range. name: how the message calls it."""
    from pydantic import TypeAdapter, ValidationError

    if isinstance(value, bool) and kind is not bool:
        raise UsageError(f"{name}: input should not be true or false, as {value} is")
    if isinstance(value, str) and {int, float, bool} & {kind, *typing.get_args(kind)}:
        expected = "true or false" if kind is bool else "a number"
        raise UsageError(f"{name}: input should be {expected}, not {value!r:.80}")
    if isinstance(value, list | tuple):
        for stage in value:
            if isinstance(stage, Mapping):
                hints = typing.get_type_hints(Stage)
                for part in stage:
                    check_value(name, hints.get(part, Any), stage[part]) if part in hints else None
    try:
        value = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{name}: {first['msg'].lower()}, not {first.get('input')!r:.80}") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name} must be a number, not {value}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        bounds = {
            "above": ("above", lambda bound: value > bound), "least": ("at least", lambda bound: value >= bound),
            "below": ("below", lambda bound: value < bound), "most": ("at most", lambda bound: value <= bound),
        }  # fmt: skip
        for bound, (words, holds) in bounds.items():
            if (limit := metadata.get(bound)) is not None and not holds(limit):
                raise UsageError(f"{name} must be {words} {limit:,}, not {value}")
    return value


def _check_together(config: TrainConfig, called: Callable[[str], str]) -> None:
    """Raises UsageError where values make no sense together."""
    optim, schedule, adversarial = config.optim, config.schedule, config.adversarial
    if adversarial.mismatches >= optim.batch:
        raise UsageError(
            f"{called('loss.adversarial.mismatches')} must be below the batch, {optim.batch}, not "
            f"{adversarial.mismatches}"
        )
    if optim.batch % optim.accumulate:
        multiple = f"is not a multiple of {called('optim.accumulate')} {optim.accumulate}"
        raise UsageError(f"{called('optim.batch')} {optim.batch} {multiple}")
    if adversarial.shared_fakes and config.text.encoder != "prepared":
        why = "an encoder that is trained has changed by the generator's phase"
        raise UsageError(f"{called('loss.adversarial.shared_fakes')} needs {called('text.encoder')} prepared: {why}")
    if adversarial.kind == "wgan-gp" and config.penalty.kind == "none":
        why = "nothing bounds a Wasserstein critic without one"
        raise UsageError(
            f"{called('loss.adversarial.kind')} wgan-gp needs a penalty, not {called('loss.penalty.kind')} none: {why}"
        )
    for stage in schedule.stages:
        _check_stage(stage, called("schedule.stages"), optim.accumulate)
    sides = [stage.resolution for stage in schedule.stages]
    if any(b != 2 * a for a, b in itertools.pairwise(sides)):
        listed = ", ".join(map(str, sides))
        raise UsageError(f"{called('schedule.stages')}: each resolution must be twice the one before, not {listed}")


def _check_stage(stage: Stage, name: str, accumulate: int) -> None:
    """Raises UsageError where a stage makes no sense."""
    where = f"{name}, {stage.resolution} px"
    if stage.resolution < 4:
        raise UsageError(f"{where}: growing starts at 4 px at the least")
    if not (math.isfinite(stage.share) and stage.share > 0):
        raise UsageError(f"{where}: share must be above 0, not {stage.share}")
    if stage.batch is not None and (stage.batch < 2 or stage.batch % accumulate):
        raise UsageError(f"{where}: batch {stage.batch} must be at least 2 and a multiple of accumulate ({accumulate})")
    if stage.lr is not None and not (math.isfinite(stage.lr) and stage.lr > 0):
        raise UsageError(f"{where}: lr must be above 0, not {stage.lr}")
