"""From a prompt to an image: load a trained model, call it, save it."""

import math
import operator
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from t2i.device import pick_device
from t2i.errors import UsageError
from t2i.files import encodable
from t2i.grids import table_grid
from t2i.hub import upload
from t2i.image_files import save_image
from t2i.models.base import Generator
from t2i.models.card import model_card
from t2i.models.find import BUILT_IN, find_model
from t2i.models.folder import ModelDescription, load_model, save_model
from t2i.models.growing import Growth
from t2i.sampling import Sampler
from t2i.text.encoders import load_recorded
from t2i.text.frozen import FrozenEncoder
from t2i.text.pooler import TextBatch
from t2i.text.transformer import NAME as TRAINED
from t2i.text.transformer import TrainedEncoder, drop_text_encoder, load_text_encoder, save_text_encoder
from t2i.version import __version__


@dataclass(frozen=True)
class PipelineOutput:
    """images: a list of PIL images, a uint8 array [N, h, w, 3], or a float tensor [N, 3, h, w] in [0, 1]; 4 channels,
    the last one alpha, where the model draws transparent images."""

    images: Any


class TextToImagePipeline:
    """Generates images from prompts with a trained model.

        pipe = TextToImagePipeline.from_pretrained()  # the built-in model; or "runs/00003-..."
        pipe("a red apple", generator=torch.Generator().manual_seed(0)).images[0].save("out.png")

    The same prompt and seed give the same pixels alone, in a batch and across runs on one machine (t2i/sampling.py).
    """

    def __init__(
        self,
        generator: Generator,
        description: ModelDescription,
        *,
        text_encoder: FrozenEncoder | TrainedEncoder | Path | str | None = None,
        device: torch.device | str = "cpu",
        weights_sha256: str = "",
    ):
        self.device = torch.device(device)
        self.generator = generator.eval().to(memory_format=torch.channels_last).to(self.device)
        self.description = description
        self.weights_sha256 = weights_sha256
        self.sampler = Sampler(self.generator, self.device, form=description.form)
        self._instead = text_encoder if isinstance(text_encoder, Path | str) else None
        self._text_encoder = None if isinstance(text_encoder, Path | str) else text_encoder

    @classmethod
    def from_pretrained(
        cls,
        path: Path | str = BUILT_IN,
        device: torch.device | str = "auto",
        text_encoder: Path | str | None = None,
    ) -> "TextToImagePipeline":
        """Load a model folder, a run's newest snapshot, "RUN@120000", "RUN@best", the built-in model,
        "emoji", or a model on the Hugging Face hub, "ORG/NAME" or "ORG/NAME@REVISION".

        text_encoder: the folder of its text encoder, where it is no longer where it was; its hash must agree.
        Strict; safetensors only. Torch's random state stays as it is. Raises UserError, one line.
        """
        path = find_model(path)
        where = pick_device(device) if isinstance(device, str) else device
        with torch.random.fork_rng(devices=[]):  # modules draw their first weights, which are then loaded
            generator, description, digest, encoder = _load(path)
        if encoder is not None:
            encoder.encoder.requires_grad_(False).to(where)
        return cls(generator, description, text_encoder=encoder or text_encoder, device=where, weights_sha256=digest)

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype | None = None) -> None:
        """Write the model as a folder that from_pretrained reads. Raises UserError, one line.

        dtype: torch.float16 rounds the generator's weights, for a file of half the size.
        """
        if isinstance(self._text_encoder, TrainedEncoder):
            trained = self._text_encoder
            save_text_encoder(folder, trained.encoder, trained.tokenizer)
        save_model(folder, self.generator, self.description, dtype)
        if not isinstance(self._text_encoder, TrainedEncoder):
            drop_text_encoder(folder)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = False,
        licence: str | None = None,
        half: bool = False,
        scores: Sequence[Mapping[str, Any]] = (),
        command: str | None = None,
    ) -> str:
        """Put the model onto the Hugging Face hub as ORG/NAME, with a card and a sheet of samples; its address.

        licence: as the hub names it. half: weights in half precision. scores, command: for the card, see model_card.
        Raises UserError, one line.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            self.save_pretrained(folder, torch.float16 if half else None)
            prompts, seeds = (self.known_prompts or ["a table"])[:4], range(4)
            images = list(self(prompts, seeds=seeds, output_type="np").images)
            rows = [images[start : start + len(seeds)] for start in range(0, len(images), len(seeds))]
            save_image(table_grid(rows, prompts, [f"seed {seed}" for seed in seeds]), folder / "samples.png")
            card = model_card(
                name.rpartition("/")[2], self.description, address=name, licence=licence, samples="samples.png",
                scores=scores, command=command,
            )  # fmt: skip
            (folder / "README.md").write_text(card, encoding="utf-8")
            return upload(folder, name, private)

    @property
    def resolution(self) -> int:
        return self.description.resolution

    @property
    def grown(self) -> Growth:
        """The stage of progressive growing that the generator was saved at; images below `resolution` are enlarged."""
        return self.generator.growth

    @property
    def known_prompts(self) -> list[str]:
        """A few training captions; empty where the model folder has none."""
        prompts = self.description.training.get("prompts")
        return [text for text in prompts if isinstance(text, str) and text.strip()] if isinstance(prompts, list) else []

    @property
    def has_own_encoder(self) -> bool:
        """Whether the text encoder was trained with the generator, and lies in its folder."""
        return self.description.text_encoder["name"] == TRAINED

    @property
    def text_encoder(self) -> FrozenEncoder | TrainedEncoder:
        """The text encoder of training, loaded at its first use and checked by hash."""
        if self._text_encoder is None:
            with torch.random.fork_rng(devices=[]):
                self._text_encoder = load_recorded(self.description.text_encoder, self.device, self._instead)
        return self._text_encoder

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        truncation_psi: float = 1.0,
        output_type: str = "pil",
    ) -> PipelineOutput:
        """Generate `num_images_per_prompt` images for each prompt; the images of one prompt are consecutive.

        seeds: one for each image of a prompt, the same for every prompt (overrides num_images_per_prompt). Each seed
        gives another image, the same prompt and seed the same one.
        generator: where the noise comes from without seeds; None: torch's global generator.
        truncation_psi: 1: as varied as trained; towards 0: the typical image of a prompt, whatever the seed.
        output_type: "pil", "np" or "pt", see PipelineOutput.
        Raises UsageError for an empty prompt or a bad argument.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if output_type not in ("pil", "np", "pt"):
            raise UsageError(f"output_type is pil, np or pt, not {output_type!r}")
        truncation_psi = _number(truncation_psi, "truncation_psi")
        try:
            seeds = None if seeds is None else [operator.index(seed) for seed in seeds]
            count = operator.index(num_images_per_prompt) if seeds is None else len(seeds)
        except TypeError as error:
            raise UsageError(f"seeds are whole numbers, and so is num_images_per_prompt ({error})") from error
        if count < 1:
            raise UsageError("ask for at least one image a prompt")
        if seeds is not None:
            noise = torch.stack([self.sampler.noise(seed) for seed in seeds]).repeat(len(prompts), 1)
        else:
            where = generator.device if generator is not None else "cpu"
            noise = torch.randn(len(prompts) * count, self.generator.z_dim, generator=generator, device=where).cpu()
        condition = self.sampler.pool(self.encode(prompts)).repeat_interleave(count, dim=0)
        images = torch.cat(list(self.sampler.draw(noise, condition, truncation_psi)))
        if output_type == "pt":
            return PipelineOutput(images.permute(0, 3, 1, 2).float() / 255)
        arrays = images.numpy()
        return PipelineOutput(arrays if output_type == "np" else [PIL.Image.fromarray(image) for image in arrays])

    def draw_each(
        self, condition: Tensor, seeds: Sequence[int], truncation_psi: float = 1.0
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Every condition [N, E] (`sampler.pool`) with every seed: number of the condition, seed, and the image, uint8
        [h, w, 3 or 4]."""
        jobs = [(row, seed) for row in range(len(condition)) for seed in seeds]
        noise = torch.stack([self.sampler.noise(seed) for _, seed in jobs])
        rows = torch.tensor([row for row, _ in jobs], device=self.device)
        images = (
            image for group in self.sampler.draw(noise, condition[rows], truncation_psi) for image in group.numpy()
        )
        for (row, seed), image in zip(jobs, images):
            yield row, seed, image

    def encode(self, prompts: Sequence[str]) -> TextBatch:
        """Prompts as token embeddings on the CPU. Raises UsageError where one is empty."""
        if not prompts:
            raise UsageError("no prompt was given")
        cleaned = [" ".join(encodable(prompt).split()) for prompt in prompts]
        for number, prompt in enumerate(cleaned):
            if not prompt:
                which = f"prompt {number + 1}" if len(prompts) > 1 else "the prompt"
                raise UsageError(f"{which} is empty: describe an image")
        return self.text_encoder.encode_batch(cleaned)

    def image_facts(self, prompt: str, seed: int, truncation_psi: float) -> dict[str, str]:
        """The metadata of an image file: all that is needed to generate it again."""
        return {
            "prompt": prompt,
            "seed": str(seed),
            "truncation_psi": f"{truncation_psi:g}",
            "model": f"{self.description.architecture} sha256:{self.weights_sha256}",
            "software": f"t2i {__version__}",
        }


def _number(value: Any, name: str) -> float:
    try:
        if math.isfinite(value):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UsageError(f"{name} is a number, not {value!r:.40}")


def _load(path: Path) -> tuple[Generator, ModelDescription, str, TrainedEncoder | None]:
    """Generator, description, hash of the weights, and the text encoder if it was trained with the generator."""
    generator, description, digest = load_model(path)
    if description.text_encoder["name"] != TRAINED:
        return generator, description, digest, None
    encoder = TrainedEncoder(*load_text_encoder(path, description.text_encoder["sha256"]))
    return generator, description, digest, encoder
