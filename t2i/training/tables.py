"""The tables of a run's settings that belong to losses and networks: what they may hold, and what goes together."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from t2i.config import FIELDS, TrainConfig, build, check_value
from t2i.errors import UsageError
from t2i.losses.registry import TERMS
from t2i.models import get_architecture, list_architectures
from t2i.models.base import Discriminator, Generator
from t2i.models.registry import OPTION_HELP, get_discriminator, list_discriminators, options_of
from t2i.setting_groups import Adversarial, Penalty
from t2i.setting_layers import Layers, is_on
from t2i.toml_tables import flatten, nest


def networks_of(flat: Mapping[str, Any]) -> dict[str, tuple[str, type[Generator] | type[Discriminator]]]:
    """The networks of a run: "generator" and "discriminator" -> how it is called, its class. Raises UsageError."""
    arch = str(flat.get("arch", TrainConfig.arch))
    kind = str(flat.get("model.discriminator.kind") or arch)
    try:
        generator, discriminator = get_architecture(arch).generator, get_discriminator(kind)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return {
        "generator": (f"the generator of {arch}", generator),
        "discriminator": (f"the discriminator {kind}", discriminator),
    }


def check_networks(layers: Layers, named: Iterable[str]) -> None:
    """Are [model.generator] and [model.discriminator] settings of these networks? Raises UsageError, one line."""
    networks = networks_of(layers.values)
    for name, value in layers.values.items():
        match name.split("."):
            case ["model", ("generator" | "discriminator") as which, key] if name != "model.discriminator.kind":
                owner, network = networks[which]
                known = options_of(network)
                if key not in known:
                    raise UsageError(f"{layers.called(name)} has no effect: {owner} has {', '.join(known)}")
                check_like(layers.called(name), value, known[key])
            case ["model", "both", key]:
                found = [options_of(network)[key] for _, network in networks.values() if key in options_of(network)]
                if not found:
                    known = {key: 0 for _, network in networks.values() for key in options_of(network)}
                    raise UsageError(f"{layers.origin[name]}: there is no [model] setting {key!r}; it has "
                                     f"{', '.join(known)}")  # fmt: skip
                check_like(f"{layers.origin[name]}: [model] {key}", value, found[0])


def check_like(called: str, value: Any, default: Any) -> None:
    """Raises UsageError where a network's option is of another type than its default."""
    kind = type(default)
    if type(value) is not kind and (kind, type(value)) != (float, int):
        raise UsageError(f"{called} must be of type {kind.__name__}, such as {default!r}, not {value!r:.60}")


def check_losses(layers: Layers, named: Mapping[str, Any]) -> None:
    """Are the tables [loss.NAME] those of losses, and of ones that are in use? Raises UsageError, one line."""
    for name, value in layers.values.items():
        match name.split("."):
            case ["loss", loss, key] if name not in FIELDS:
                tables = {"adversarial": Adversarial, "penalty": Penalty}
                tables |= {name: kind.Settings for name, kind in TERMS.items()}
                if loss not in tables:
                    raise UsageError(f"{layers.called(name)}: there is no loss {loss!r}; there is {', '.join(tables)}")
                fields = {f.name: f for f in dataclasses.fields(tables[loss])}
                if key not in fields:
                    raise UsageError(f"{layers.called(name)}: {loss} has {', '.join(fields)}")
                check_value(layers.called(name), type(fields[key].default), value, fields[key].metadata)
            case ["loss", *_] if name not in FIELDS:
                raise UsageError(f"{layers.called(name)}: there is no such setting; t2i train --dry-run prints all")
    for name in named:
        match name.split("."):
            case ["loss", loss, key] if loss in TERMS and key != "weight" and not in_use(layers.values, loss):
                raise UsageError(f"{layers.called(name)} has no effect: loss.{loss}.weight is 0")


def help_for(name: str) -> str:
    """What a setting does, by its dotted name; "" where there is no such setting."""
    if name in FIELDS:
        return FIELDS[name].metadata["help"]
    match name.split("."):
        case ["loss", loss, key] if loss in TERMS:
            return next((f.metadata["help"] for f in dataclasses.fields(TERMS[loss].Settings) if f.name == key), "")
        case ["model", "discriminator", "kind"]:
            return "The discriminator: an architecture's own, or projected, over a frozen backbone."
        case ["model", _, key]:
            return OPTION_HELP.get(key, "")
    return ""


def in_use(flat: Mapping[str, Any], loss: str) -> bool:
    return flat.get(f"loss.{loss}.weight", 0) > 0


def unknown_settings(flat: Mapping[str, Any]) -> list[str]:
    """Names of settings that this version does not have."""
    networks = {which: options_of(network) for which, (_, network) in networks_of(flat).items()}
    generators = [get_architecture(name).generator for name in list_architectures()]
    kinds = [*generators, *(get_discriminator(kind) for kind in list_discriminators())]
    networks["both"] = {key: value for kind in kinds for key, value in options_of(kind).items()}

    def known(name: str) -> bool:
        match name.split("."):
            case ["model", which, key] if which in networks and name != "model.discriminator.kind":
                return key in networks[which]
            case ["loss", loss, key] if name not in FIELDS:
                return loss in TERMS and key in {field.name for field in dataclasses.fields(TERMS[loss].Settings)}
        return name in FIELDS or name == "model.discriminator.kind"

    return [name for name in flat if not known(name)]


def for_each_network(flat: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of model.both, of an older version, in `named`, as those of each network of `flat` that takes them."""
    both = {name.removeprefix("model.both."): value for name, value in named.items() if name.startswith("model.both.")}
    taken = {which: options_of(network) for which, (_, network) in networks_of(flat).items()}
    found = {f"model.{which}.{key}": value for which, own in taken.items() for key, value in both.items() if key in own}
    return {name: value for name, value in found.items() if name not in named}


def complete(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with every option of the networks and of the losses in use: what a config.json holds.

    Losses that are not in use are left out.
    """
    flat = {**flat, **for_each_network(flat, flat)}
    found = {name: value for name, value in flat.items() if not name.startswith(("model.both.", "loss."))}
    found |= {name: value for name, value in flat.items() if name in FIELDS}
    for which, (_, network) in networks_of(flat).items():
        for key, default in options_of(network).items():
            name = f"model.{which}.{key}"
            found[name] = flat.get(name, default)
            if isinstance(default, float) and isinstance(found[name], int):
                found[name] = float(found[name])
    for loss, kind in TERMS.items():
        if in_use(flat, loss):
            for field in dataclasses.fields(kind.Settings):
                assert field.default is not dataclasses.MISSING
                name = f"loss.{loss}.{field.name}"
                found[name] = type(field.default)(flat.get(name, field.default))
    return found


def check_together(settings: TrainConfig, ranks: int = 1) -> None:
    """Raises UsageError where a setting makes no sense with the networks, or with so many ranks."""
    networks = networks_of(flatten(settings.tables()))
    if settings.schedule.growing:
        for owner, network in networks.values():
            if not network.grows:
                raise UsageError(f"--growing: {owner} has one size; it does not grow")
    if settings.optim.freeze_d and settings.discriminator_kind == "projected":
        raise UsageError("optim.freeze_d: the projected discriminator has a frozen backbone already; its heads train")
    for loss in settings.terms:
        TERMS[loss].check(settings)
    if settings.text.conditioning == "sentence" and settings.text.layers:
        raise UsageError("text.layers mixes tokens; --conditioning sentence has none")
    pieces, group = settings.optim.accumulate * ranks, get_discriminator(str(settings.discriminator_kind)).group
    stages = settings.schedule.stages if settings.schedule.growing else ()
    for batch in [stage.batch or settings.optim.batch for stage in stages] or [settings.optim.batch]:
        if batch % pieces:
            raise UsageError(
                f"a batch of {batch} cannot be divided among {ranks} processes and --accumulate "
                f"{settings.optim.accumulate}; choose another --batch"
            )
        if pieces > 1 and batch // pieces % group:
            raise UsageError(
                f"a batch of {batch} falls into {pieces} pieces of {batch // pieces} (--accumulate, processes); "
                f"the discriminator {settings.discriminator_kind} compares images in groups of {group}, "
                "so a piece must be a multiple of that"
            )


def config_from(flat: Mapping[str, Any]) -> TrainConfig:
    """A config from {dotted name: value}, with every option of its networks and losses. Raises UsageError."""
    return build(complete(flat))


def effective(config: TrainConfig) -> dict[str, Any]:
    """The settings of a run that have an effect, as the tables of a file that repeats it; losses that are off are said
    to be."""
    values = flatten(config.tables())
    found = {}
    for name, value in values.items():
        needs = FIELDS[name].metadata.get("needs") if name in FIELDS else None
        if needs is not None:
            other, _, wanted = needs.partition("=")
            if values.get(other) != wanted if wanted else not is_on(values.get(other)):
                continue
        found[name] = value
    off = {f"loss.{loss}.weight": 0.0 for loss in TERMS}
    return nest({**{name: value for name, value in off.items() if name not in found}, **found})
