"""The settings that every run has, in groups: a group is a table of the TOML file, a setting a field of it.

Those of a loss stand beside the loss (t2i/losses), those of a network are the arguments of its class.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


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
