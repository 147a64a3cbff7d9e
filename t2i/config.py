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
from typing import Any

from t2i.errors import UsageError
from t2i.setting_groups import (
    GROUPS,
    Adversarial,
    Evaluation,
    Optim,
    Penalty,
    RunSettings,
    Stage,
    Text,
    Timetable,
    Transformer,
    setting,
)
from t2i.toml_tables import flatten, set_dotted

COMMAND_LINE, DEFAULT = "command line", "default"  # sources of a value


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run.

    terms: of each further loss that is in use, its table [loss.NAME]. generator, discriminator: [model.generator] and
    [model.discriminator], without `kind`, which is discriminator_kind.
    """

    arch: str = "stylegan2"
    preset: str = "auto"
    begin_with: str | None = None
    text: Text = field(default_factory=Text)
    transformer: Transformer = field(default_factory=Transformer)
    optim: Optim = field(default_factory=Optim)
    schedule: Timetable = field(default_factory=Timetable)
    adversarial: Adversarial = field(default_factory=Adversarial)
    penalty: Penalty = field(default_factory=Penalty)
    terms: dict[str, dict[str, Any]] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)
    discriminator_kind: str | None = None
    eval: Evaluation = field(default_factory=Evaluation)
    run: RunSettings = field(default_factory=RunSettings)

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
