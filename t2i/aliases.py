"""Names of older versions, and what they are called now: in run.toml and config.json, checkpoints and models.

This is the only place that knows them.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

# Settings of 0.1, which lay side by side, -> dotted names. "model.both" stands for both networks: a key goes to each
# one that takes it.
SETTINGS = {
    "conditioning": "text.conditioning", "text_encoder": "text.encoder", "model.text_layers": "text.layers",
    "model.text_lr": "text.lr_multiplier",
    "batch": "optim.batch", "accumulate": "optim.accumulate", "lr_g": "optim.lr_g", "lr_d": "optim.lr_d",
    "beta1": "optim.beta1", "beta2": "optim.beta2", "ema_kimg": "optim.ema_kimg", "precision": "optim.precision",
    "cuda_graphs": "optim.cuda_graphs",
    "kimg": "schedule.kimg", "minutes": "schedule.minutes", "pretrain_kimg": "schedule.warm_up_kimg",
    "pretrain_lr": "schedule.warm_up_lr", "growing": "schedule.growing",
    "stages": "schedule.stages", "grow_kimg": "schedule.grow_kimg", "fade": "schedule.fade",
    "loss": "loss.adversarial.kind", "mismatches": "loss.adversarial.mismatches",
    "shared_fakes": "loss.adversarial.shared_fakes", "augment": "loss.adversarial.augment",
    "penalty": "loss.penalty.kind", "penalty_weight": "loss.penalty.weight", "penalty_every": "loss.penalty.every",
    "contrastive": "loss.contrastive.weight", "places": "loss.word_region.weight",
    "eval_every": "eval.every", "eval_samples": "eval.samples", "eval_data": "eval.data", "best_by": "eval.best_by",
    "seed": "run.seed", "log_kimg": "run.log_kimg", "snapshot_kimg": "run.snapshot_kimg",
    "checkpoint_minutes": "run.checkpoint_minutes", "on_nan": "run.on_nan",
    "tensorboard": "run.trackers",
    "model.discriminator": "model.discriminator.kind", "model.sketch": "model.generator.layout_mlp",
}  # fmt: skip

# Settings of 0.1 that the energy score took the place of, and the value at which each was off.
GONE = {"likeness": 0, "perceptual": 0, "noise_kl": 0, "nearest_of": 1, "diversity": 0, "blur_kimg": 0}

# Parts of a checkpoint -> their files in 0.1.
CHECKPOINT_PARTS = {"contrastive": "contrast", "word_region": "places"}

# Beginnings of tensors' names in 0.1 -> what they are now.
TENSORS = {
    "sketch.": "layout.", "typical": "w_avg_samples", "place": "position", "pooler.reader.": "pooler.mixer.",
    "texts.": "projections.", "alone.": "unconditional.",
}  # fmt: skip


def gone_settings(flat: Mapping[str, Any]) -> list[str]:
    """The settings of 0.1 among {name: value} that are on and have no counterpart any more."""
    return [name for name, off in GONE.items() if flat.get(name, off) != off]


def rename_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{name: value}, some names those of 0.1, -> {dotted name: value}."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        if name in GONE:
            continue
        new = SETTINGS.get(name, name)
        if name == "places":
            value = (flat.get("contrastive") or 1.0) if value is True else 0.0 if value is False else value
        elif name in ("tensorboard", "run.tensorboard"):  # 0.2 had it in [run] for a while
            new, value = "run.trackers", {True: ("tensorboard",), False: ()}.get(value, value)
        elif name == "contrastive" and value is None:
            value = 1.0 if flat.get("text_encoder") == "transformer" else 0.0
        elif name == "model.discriminator" and value == "scratch":
            value = "stylegan2"  # which alone had the choice
        elif new == name and name.startswith("model.") and name.count(".") == 1:
            new = f"model.both.{name.removeprefix('model.')}"
        elif new == name and name.startswith("encoder."):
            new = f"text.transformer.{name.removeprefix('encoder.')}"
        found[new] = value
    return found


def rename_tensors(tensors: Mapping[str, T]) -> dict[str, T]:
    """Named tensors that 0.1 wrote, by the names that they have now."""
    return {_rename(name): value for name, value in tensors.items()}


def _rename(name: str) -> str:
    for old, new in TENSORS.items():
        if name == old or (old.endswith(".") and name.startswith(old)):
            return new + name.removeprefix(old)
    return name


def rename_model_config(config: Mapping[str, Any], growth: Any) -> dict[str, Any]:
    """generator/config.json of a model of 0.1 as it is now. growth: as its model_index.json has it."""
    options = dict(config["options"])
    text = {
        "conditioning": config["conditioning"],
        "layers": options.pop("text_layers", 0),
        "lr_multiplier": options.pop("text_lr", 1.0),
    }
    growth = growth or options.pop("growth", None)
    options.pop("growth", None)
    shown = options.pop("shown_at", None) or []
    if "sketch" in options:
        options["layout_mlp"] = options.pop("sketch")
    for name in ("discriminator", "input_resolution", "match_width", "gamma"):  # the discriminator's
        options.pop(name, None)
    resolution = config["resolution"]
    return {
        "architecture": config["architecture"],
        "resolution": resolution,
        "text": text,
        "generator": options,
        "rgb_resolutions": shown,
        "growth": None if growth is None or list(growth) == [resolution, 1] else list(growth),
    }
