"""Writes old_runs.tar.xz, what t2i 0.1 left behind; run with its code and its tests:

    git worktree add /tmp/old 9ac7990
    PYTHONPATH=/tmp/old:/tmp/old/tests python tests/training/make_old_runs.py

data/           96 images at 16 px
00000-dfgan-*   text encoder trained with it     config.json, the last checkpoint, model/
00001-stylegan-* stopped while it grew           the same
RUN/further.safetensors  "part: tensor" of the same run resumed by 0.1 for 32 images more, without the optimisers;
                rounded to 16 bits of mantissa
RUN/drawn.npy   what 0.1 draws with that: uint8 [2, R, R, 3]
layouts.json    of runs with every part: settings, and each part's tensors by name: {name: shape}
"""

import dataclasses
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from hash_encoder import HashEncoder
from short_runs import SMALL_ENCODER, config, start
from t2i.training.state import TrainingState

from t2i import TextToImagePipeline, pipeline
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.prepared import PreparedDataset
from t2i.data.sources.shapes import ShapesSource
from t2i.models import get_architecture
from t2i.text.frozen import pad_tokens
from t2i.training.checkpoint import list_checkpoints, pack
from t2i.training.loop import train
from t2i.training.run import Run
from t2i.training.text import make_text

CPU = torch.device("cpu")
NARROW = {"z_dim": 4, "w_dim": 8, "mapping_layers": 2, "fmap_base": 8, "fmap_max": 4}
RUNS = {
    "dfgan": {"model": {"nf": 1, "z_dim": 4}, "text_encoder": "transformer", "encoder": SMALL_ENCODER,
              "contrastive": 0.0, "kimg": 0.032},
    "stylegan": {"model": NARROW, "kimg": 0.024, "grow_kimg": 0.048, "mismatches": 2},
}  # fmt: skip
TRAINED = {"text_encoder": "transformer", "encoder": SMALL_ENCODER}
POSTERIOR = {"likeness": 10.0, "noise_kl": 0.003, "contrastive": 1.0, "places": True}
PROJECTED = {"discriminator": "projected", "input_resolution": 64}
LAYOUTS = {
    "dfgan": {**TRAINED, "places": True, "model": {"nf": 1}},
    "stylegan": {"contrastive": 1.0, "model": {**NARROW, "text_layers": 1}},
    "stylegan2": {**POSTERIOR, "model": {**NARROW, "sketch": 8, "text_layers": 1, "match_width": 8}},
    "stylegan2, projected": {**POSTERIOR, "model": {**NARROW, **PROJECTED, "sketch": 8}, "loss": "hinge",
                             "penalty": "none", "penalty_every": 1, "growing": False, "stages": []},
}  # fmt: skip


class Encoder(HashEncoder):
    def encode_batch(self, texts):
        return pad_tokens(self.encode(texts))


def rounded(value: torch.Tensor) -> torch.Tensor:
    if value.dtype != torch.float32:
        return value
    return (value.view(torch.int32) + 0x80 & ~0xFF).view(torch.float32)


def make_run(arch: str, data: PreparedDataset, root: Path) -> None:
    run, _ = start(config(arch, **RUNS[arch]), data, root)
    kept = [list_checkpoints(run.checkpoints)[-1], run.folder / "model"]
    further = Run(shutil.copytree(run.folder, root / "further"))
    settings, _ = further.read_config()
    settings = dataclasses.replace(settings, kimg=settings.kimg + 0.032, grow_kimg=settings.grow_kimg or settings.kimg)
    train(settings.check(), data, further, CPU, resume=True)
    files = [f for f in list_checkpoints(further.checkpoints)[-1].glob("*.safetensors") if "optimizer" not in f.name]
    tensors = {
        f"{file.stem}: {name}": rounded(value).contiguous()
        for file in files
        for name, value in safetensors.torch.load_file(file).items()
    }
    safetensors.torch.save_file(tensors, run.folder / "further.safetensors")
    pipeline.load_encoder = lambda *given: Encoder()
    pipe = TextToImagePipeline.from_pretrained(further.folder, "cpu")
    np.save(run.folder / "drawn.npy", pipe("a red circle", seeds=[0, 1], output_type="np").images)
    shutil.rmtree(further.folder)
    for path in run.folder.iterdir():
        if path.name in ("samples", "losses.png"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in run.checkpoints.iterdir():
        if path not in kept:
            shutil.rmtree(path)


def layouts(data: PreparedDataset, folder: Path) -> dict:
    found = {}
    for name, changes in LAYOUTS.items():
        settings = config(name.split(",")[0], **changes)
        state = TrainingState(settings, data.resolution, make_text(settings, data, folder, write=False), CPU)
        for optimizer in (phase.optimizer for phase in state.phases):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        parts = {name: {key: list(v.shape) for key, v in pack(part).items()} for name, part in state.parts.items()}
        found[name] = {"settings": dataclasses.asdict(settings), "parts": parts}
    return found


def main() -> None:
    assert hasattr(get_architecture("dfgan"), "presets"), "this is for the code of 0.1"
    torch.set_num_threads(1)
    target = Path(__file__).with_name("old_runs.tar.xz")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(ShapesSource(96), root / "data", HashEncoder(), PrepareOptions(resolution=16, workers=1))
        data = PreparedDataset(root / "data")
        (root / "data" / "preview.png").unlink()
        for arch in RUNS:
            make_run(arch, data, root)
        (root / "layouts.json").write_text(json.dumps(layouts(data, root)))
        with tarfile.open(target, "w:xz", preset=9) as tar:
            for path in sorted(root.iterdir()):
                tar.add(path, path.name)
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
