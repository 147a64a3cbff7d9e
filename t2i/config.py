"""Settings of a training run: what there is, where a value comes from, and which values make no sense together.

A value comes from, the first that has one: the command line, the config file (`--config run.toml`), the preset, the
default below. The resolved settings are printed and saved with the run.
"""

import dataclasses
import itertools
import math
import tomllib
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from t2i.errors import UsageError, UserError
from t2i.files import describe_os_error, first_line

# ruff: noqa: RUF009  (_setting and _option are dataclasses.field with a help text)

COMMAND_LINE = "command line"  # as the source of a setting
TABLES = ("model", "encoder")


def _setting(default: Any, help: str, on_command_line: bool = False) -> Any:
    metadata = {"help": help, "on_command_line": on_command_line}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


_option = partial(_setting, on_command_line=True)  # a setting that `t2i train` has an option for


def option(name: str) -> str:
    """How a user calls a setting: as its option, or by its name in a run.toml where it has none."""
    return "--" + name.replace("_", "-") if FIELDS[name].metadata["on_command_line"] else name


@dataclass(frozen=True)
class Stage:
    """A stage of progressive growing, in a run.toml a [[stages]] table.

    share: of the run's pictures. batch, lr: left out, the run's own --batch, --lr-g and --lr-d.
    """

    resolution: int
    share: float
    batch: int | None = None
    lr: float | None = None


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. The help texts are those of the command line. Counts are in pictures, not steps."""

    arch: str = _option("stylegan2", "Architecture.")
    preset: str = _option(
        "auto",
        "Row of the architecture's preset table; auto: fast where there is one, else small, on a GPU wide, else paper; "
        "the first where there is none of these.",
    )
    conditioning: Literal["attention", "sentence"] = _option(
        "attention", "How text enters: attention pooling over the tokens, or one sentence vector."
    )
    text_encoder: Literal["prepared", "transformer"] = _option(
        "prepared", "prepared: the frozen one that prepare ran; transformer: one that is trained with the GAN."
    )
    contrastive: float | None = _setting(
        None, "Weight of the image-text contrastive term; left out, the preset's, or 1 with a trained text encoder."
    )
    places: bool = _setting(
        False,
        "The contrastive term also word by word, each at its best place; mirrored, a picture belies left and right.",
    )
    diversity: float = _setting(0.0, "Weight of the diversity term: two noises of one caption, two pictures.")
    likeness: float = _setting(
        0.0, "Weight of the likeness term: a drawing's coarse colours are those of its caption's own picture."
    )
    perceptual: float = _setting(
        0.0,
        "Weight of the perceptual term: to a projected discriminator's frozen network a drawing looks as its caption's "
        "own picture does.",
    )
    nearest_of: int = _setting(
        1,
        "Draw a caption with so many noises; the drawing nearest to its own picture is learned from. From 2 on, seeds "
        "share out what pictures of one caption differ in.",
    )
    noise_kl: float = _setting(
        0.0,
        "Beside likeness: a caption's own picture tells the noise that it is drawn with, and each nat of that costs so "
        "much. Seeds then differ as pictures of one caption do.",
    )
    pretrain_kimg: float = _setting(
        0.0, "For so many thousand pictures the generator learns by likeness alone, without a discriminator: fast."
    )
    pretrain_lr: float | None = _setting(
        None,
        "Adam's learning rate meanwhile, at first; it falls to --lr-g, which it is where left out.",
    )
    loss: Literal["hinge", "logistic", "wgan-gp"] = _option("hinge", "Adversarial loss.")
    penalty: Literal["ma-gp", "r1", "wgan-gp", "none"] = _option("ma-gp", "Gradient penalty.")
    penalty_weight: float | None = _setting(None, "Its weight; left out, the published one.")
    penalty_every: int = _option(1, "Take it every k-th step, k times as heavy.")
    shared_fakes: bool = _setting(
        False,
        "The generator learns from the pictures that the discriminator has just seen: one drawing a step.",
    )
    augment: tuple[Literal["translation", "cutout"], ...] = _setting(("translation",), "DiffAugment's parts.")
    mismatches: int = _setting(1, "Wrong captions that the discriminator sees with each real picture.")
    blur_kimg: float = _setting(0.0, "Blur what the discriminator sees, sigma from R/32 px to 0 in so many thousand.")
    growing: bool = _option(False, "Grow progressively, from the first of the stages to full size.")
    stages: tuple[Stage, ...] = _setting((), "Resolutions that growing goes through, a [[stages]] table each.")
    grow_kimg: float | None = _setting(None, "Run length that the stages are shares of; left out, --kimg.")
    fade: float = _setting(0.5, "Share of a stage in which its new resolution fades in.")
    begin_with: str | None = _option(
        None, "Begin with the networks of this run, as its last checkpoint has them, not with random ones."
    )
    batch: int = _option(32, "Pictures per step, over all accumulation steps.")
    accumulate: int = _option(1, "Split a batch into this many pieces, one after the other, to save memory.")
    kimg: float = _option(1000.0, "Train until this many thousand pictures were seen.")
    minutes: float | None = _option(None, "Stop after this many minutes, if that comes first.")
    lr_g: float = _option(1e-4, "Adam's learning rate, generator.")
    lr_d: float = _option(4e-4, "Adam's learning rate, discriminator.")
    beta1: float = _setting(0.0, "Adam's beta 1.")
    beta2: float = _setting(0.9, "Adam's beta 2.")
    ema_kimg: float = _setting(10.0, "Half-life of the averaged generator, in thousand pictures.")
    precision: Literal["fp32", "bf16", "fp16"] = _option("fp32", "Number format of the networks; --amp means bf16.")
    cuda_graphs: bool = _setting(True, "On CUDA record a step's gradients once and play them again, which is faster.")
    seed: int = _option(0, "Seed of the weights, the noise and the order of the data.")
    log_kimg: float = _setting(1.0, "Write a line of metrics every so many thousand pictures.")
    snapshot_kimg: float = _setting(10.0, "Write a checkpoint, a model and a sample grid every so many thousand.")
    checkpoint_minutes: float | None = _option(None, "Also write a checkpoint every so many minutes.")
    eval_every: int | None = _option(
        None, "Score the averaged model on held-out pictures every so many pictures; keep the best in best/."
    )
    eval_samples: int = _setting(2000, "Pictures drawn for such a score.")
    eval_data: str | None = _setting(None, "Held-out data; left out, the validation split beside the training data.")
    best_by: Literal["kd", "fd", "r-precision"] = _option("kd", "The score that chooses the best model.")
    on_nan: Literal["stop", "rollback"] = _option(
        "stop", "Where a gradient is NaN: stop, or go back to the last checkpoint, three times at the most."
    )
    tensorboard: bool = _setting(False, "Also write the metrics as TensorBoard events.")
    model: dict[str, Any] = _setting({}, "The architecture's own settings (widths, depths).")
    encoder: dict[str, Any] = _setting({}, "Settings of the transformer text encoder (width, layers, vocabulary).")

    def check(self, called: Callable[[str], str] = option) -> "TrainConfig":
        """Raises UsageError where values make no sense. called: setting -> its name in the message."""
        for name in FIELDS:
            if isinstance(value := getattr(self, name), float) and not math.isfinite(value):
                raise UsageError(f"{called(name)} must be a number, not {value}")
        positive = ("penalty_every", "accumulate", "kimg", "lr_g", "lr_d", "ema_kimg", "log_kimg", "snapshot_kimg")
        for name in positive:
            if getattr(self, name) <= 0:
                raise UsageError(f"{called(name)} must be above 0, not {getattr(self, name)}")
        for name in ("minutes", "grow_kimg", "checkpoint_minutes", "eval_every", "pretrain_lr"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UsageError(f"{called(name)} must be above 0, not {value}")
        if not 2 <= self.eval_samples <= 1_000_000:
            raise UsageError(f"{called('eval_samples')} lies between 2 and 1,000,000, not at {self.eval_samples}")
        if self.batch < 2:
            why = "a wrong caption comes from another picture"
            raise UsageError(f"{called('batch')} must be at least 2, not {self.batch}: {why}")
        if not 1 <= self.mismatches < self.batch:
            raise UsageError(f"{called('mismatches')} lies between 1 and the batch less one, not at {self.mismatches}")
        if self.batch % self.accumulate:
            multiple = f"is not a multiple of {called('accumulate')} {self.accumulate}"
            raise UsageError(f"{called('batch')} {self.batch} {multiple}")
        if not 1 <= self.nearest_of <= 100:
            raise UsageError(f"{called('nearest_of')} lies between 1 and 100, not at {self.nearest_of}")
        if self.noise_kl and self.nearest_of > 1:
            why = "one is told by the picture, the other chosen by it"
            raise UsageError(f"{called('noise_kl')} and {called('nearest_of')} do not go together: {why}")
        if self.noise_kl and not self.likeness:
            why = "it is by likeness that noise learns to mean something"
            raise UsageError(f"{called('noise_kl')} needs {called('likeness')}: {why}")
        if self.shared_fakes and self.text_encoder != "prepared":
            why = "an encoder that is trained has changed by the generator's turn"
            raise UsageError(f"{called('shared_fakes')} needs {called('text_encoder')} prepared: {why}")
        if self.loss == "wgan-gp" and self.penalty == "none":
            why = "nothing bounds a Wasserstein critic without one"
            raise UsageError(f"{called('loss')} wgan-gp needs a penalty, not {called('penalty')} none: {why}")
        if not 0 <= self.fade <= 1:
            raise UsageError(f"{called('fade')} must lie in [0, 1], not {self.fade}")
        for stage in self.stages:
            _check_stage(stage, called("stages"), self.accumulate)
        sides = [stage.resolution for stage in self.stages]
        if any(b != 2 * a for a, b in itertools.pairwise(sides)):
            listed = ", ".join(map(str, sides))
            raise UsageError(f"{called('stages')}: each resolution must be twice the one before, not {listed}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{called(name)} must lie in [0, 1), not {getattr(self, name)}")
        weights = ("penalty_weight", "contrastive", "diversity", "likeness", "perceptual", "noise_kl")
        for name in (*weights, "pretrain_kimg", "blur_kimg"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise UsageError(f"{called(name)} must not be negative, as {value} is")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"{called('seed')} must lie between 0 and 2^63 - 1, not {self.seed}")
        return self


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


FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}


def help_of(name: str) -> str:
    """The help text of a setting."""
    return FIELDS[name].metadata["help"]


def resolve(
    *layers: tuple[str, dict[str, Any]],
) -> tuple[TrainConfig, dict[str, str]]:
    """Lay settings over the defaults, in the order given, later ones winning.

    layers: (where from, {name: value}); a value that is a table is merged key by key. Returns the checked config and,
    for each setting, where its value came from. Raises UsageError or UserError, one line.
    """
    values: dict[str, Any] = {}
    origin = dict.fromkeys(FIELDS, "default")
    for source, layer in layers:
        for name, value in layer.items():
            if name not in FIELDS:
                raise UsageError(f"{source}: no setting is called {name!r}; there is {', '.join(FIELDS)}")
            if name in TABLES:
                if not isinstance(value, dict):
                    raise UsageError(f"{source}: [{name}] must be a table")
                value = {**values.get(name, {}), **value}
            values[name] = value
            origin[name] = source

    def called(name: str) -> str:
        return option(name) if origin.get(name) in (None, "default", COMMAND_LINE) else f"{origin[name]}: {name}"

    return validate(values, called).check(called), origin


def validate(values: dict[str, Any], called: Callable[[str], str] = option) -> TrainConfig:
    """A config from plain values (JSON, TOML), each checked against its type. Raises UsageError, one line.

    called: setting -> its name in the message.
    """
    from pydantic import TypeAdapter, ValidationError

    given = [(name, FIELDS[name].type, value) for name, value in values.items() if name in FIELDS]
    stages = values.get("stages")
    for stage in stages if isinstance(stages, list | tuple) else ():
        if isinstance(stage, dict):
            given += [("stages", part.type, stage.get(part.name)) for part in dataclasses.fields(Stage)]
    for name, kind, value in given:
        _check_kind(called(name), kind, value)
    try:
        return TypeAdapter(TrainConfig).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        raise UsageError(f"{called(name)}: {first['msg'].lower()}, not {first.get('input')!r:.80}") from error


def _check_kind(name: str, kind: Any, value: Any) -> None:
    """What pydantic takes for something else, true for 1 and "5" for 5, is refused: other code sees it first."""
    if isinstance(value, bool) and kind is not bool:
        raise UsageError(f"{name}: input should not be true or false, as {value} is")
    if isinstance(value, str) and {int, float, bool} & {kind, *typing.get_args(kind)}:
        expected = "true or false" if kind is bool else "a number"
        raise UsageError(f"{name}: input should be {expected}, not {value!r:.80}")


def read_toml(path: Path | str) -> dict[str, Any]:
    """A run.toml: settings at the top level, the architecture's own in [model]. Raises UserError, one line."""
    try:
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise describe_os_error(error, path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML ({first_line(error)})") from error
