"""The registry of architectures. A registered name is the value of `--arch` and the id of the tests."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from t2i.models.base import Discriminator, Generator
from t2i.text.pooler import Conditioning

# Constructor arguments that are no settings.
NO_OPTIONS = ("resolution", "text", "growth", "rgb_resolutions", "channels")
# What each setting of a network does.
OPTION_HELP = {
    "z_dim": "Numbers of noise.",
    "w_dim": "Width of the style vector w.",
    "mapping_layers": "Layers of the mapping network.",
    "fmap_base": "Channels at a resolution R are min(fmap_base / R, fmap_max).",
    "fmap_max": "Most channels of a layer.",
    "nf": "Channels of the layer nearest to the image; the widest has 8 nf.",
    "output": "linear, or tanh as in the paper, which can collapse to white pages on icons.",
    "layout_mlp": "Side of the map that a layout MLP makes of text and noise; 0: none.",
    "random_noise": "New noise images at each training step; false: the constant ones that drawing uses.",
    "gamma": "Initial weight of the residual branches; the paper's is 0.",
    "match_width": "Width of the projection that compares image and text.",
    "input_resolution": "Side at which images enter the frozen backbone: a multiple of 32 from 64 on.",
}


@dataclass(frozen=True)
class Architecture:
    """A generator and the discriminator of its paper.

    Their keyword arguments are the keys of [model.generator] and [model.discriminator].
    """

    name: str
    summary: str
    generator: type[Generator]
    discriminator: type[Discriminator]


_ARCHITECTURES: dict[str, Architecture] = {}
_DISCRIMINATORS: dict[str, type[Discriminator]] = {}


def register(architecture: Architecture) -> Architecture:
    """Register an architecture, and its discriminator, under its name."""
    assert architecture.name not in _ARCHITECTURES
    _ARCHITECTURES[architecture.name] = architecture
    register_discriminator(architecture.name, architecture.discriminator)
    return architecture


def register_discriminator(name: str, discriminator: type[Discriminator]) -> None:
    """Register a discriminator as a `kind` of [model.discriminator]."""
    assert name not in _DISCRIMINATORS
    _DISCRIMINATORS[name] = discriminator


def list_architectures() -> list[str]:
    return sorted(_ARCHITECTURES)


def list_discriminators() -> list[str]:
    return sorted(_DISCRIMINATORS)


def get_architecture(name: str) -> Architecture:
    """The architecture called `name`. Raises ValueError, naming those that exist."""
    if name not in _ARCHITECTURES:
        raise ValueError(f"no architecture {name!r}; there is {', '.join(list_architectures())}")
    return _ARCHITECTURES[name]


def get_discriminator(kind: str) -> type[Discriminator]:
    """The discriminator called `kind`. Raises ValueError, naming those that exist."""
    if kind not in _DISCRIMINATORS:
        raise ValueError(f"no discriminator {kind!r}; there is {', '.join(list_discriminators())}")
    return _DISCRIMINATORS[kind]


def options_of(network: type) -> dict[str, Any]:
    """The settings of a network, {name: default}: the keyword arguments of its constructor."""
    parameters = inspect.signature(network).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in NO_OPTIONS}


def build_networks(
    arch: str,
    resolution: int,
    text: Conditioning,
    generator: Mapping[str, Any],
    kind: str,
    discriminator: Mapping[str, Any],
    rgb_resolutions: Sequence[int],
    seed: int,
    channels: int = 3,
) -> tuple[Generator, Discriminator]:
    """A new generator and discriminator; the same seed gives the same weights. The global RNG is unchanged.

    generator, discriminator: their settings. kind: of the discriminator. rgb_resolutions: the stages of growing.
    channels: of the images.
    Raises ValueError or TypeError for invalid settings.
    """
    shared = {"rgb_resolutions": tuple(rgb_resolutions)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        g = get_architecture(arch).generator(resolution, text, channels=channels, **shared, **generator)
        network = get_discriminator(kind)
        seen = {} if network.rgb_alone else {"channels": channels}
        d = network(resolution, text, **seen, **shared, **discriminator)
    return g, d
