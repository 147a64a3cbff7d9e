"""ONNX export: one file from token ids to pixels, and the tokenizer that makes the ids.

OUT/model.onnx      text encoder, pooler and generator: input_ids and attention_mask int64 [N, L], noise float32 [N, Z],
                    truncation float32 [] -> images uint8 [N, h, w, 3 or 4]
OUT/tokenizer.json  for the library tokenizers: captions to ids and mask, cut and padded
OUT/README.md       how to generate images with them, without torch and without t2i

Half-precision safetensors are TextToImagePipeline.save_pretrained(folder, torch.float16).
"""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from t2i.errors import UserError
from t2i.files import atomic_write, first_line, make_folder, sweep
from t2i.models.growing import enlarge
from t2i.pipeline import TextToImagePipeline
from t2i.pixels import shown
from t2i.precision import to_pixels
from t2i.text.frozen import as_kept
from t2i.text.minilm import Linear
from t2i.text.pooler import TextBatch
from t2i.text.transformer import TrainedEncoder
from t2i.version import __version__

OPSET = 18  # what onnxruntime reads from 1.14 on
SMALL = 4096  # weights with fewer numbers than this stay in float32
FILES = ("model.onnx", "tokenizer.json", "README.md")


class EndToEndModel(nn.Module):
    """A pipeline as one module on the CPU.

    input_ids, attention_mask int64 [N, L], noise [N, Z], truncation [] -> images uint8 [N, h, w, 3 or 4]. They
    equal the pipeline's up to rounding: the pipeline pools captions of one length at a time, unpadded.
    """

    def __init__(self, pipe: TextToImagePipeline):
        super().__init__()
        self.generator, self.resolution, self.form = pipe.generator, pipe.resolution, pipe.description.form
        encoder = pipe.text_encoder
        self.text_encoder = encoder.encoder if isinstance(encoder, TrainedEncoder) else encoder.model
        self.hidden = None if isinstance(encoder, TrainedEncoder) else encoder.hidden

    def forward(self, input_ids: Tensor, attention_mask: Tensor, noise: Tensor, truncation: Tensor) -> Tensor:
        mask = attention_mask.bool()
        if self.hidden is None:
            tokens = self.text_encoder(TextBatch(input_ids, mask)).tokens
        else:
            tokens = as_kept(self.hidden(input_ids, attention_mask)).float()
        condition = self.generator.pool(TextBatch(tokens, mask))
        images = self.generator.synthesis(noise, condition, truncation)
        return shown(to_pixels(enlarge(images, self.resolution)), self.form)


def export_onnx(pipe: TextToImagePipeline, folder: Path | str, half: bool = False) -> None:
    """Write model.onnx, tokenizer.json and README.md into `folder`; each is replaced whole.

    half: weights in 16 bits (halve_weights). Raises UserError, one line, where the packages of t2i[onnx] are missing,
    where the model has an operation that ONNX lacks, or where a file cannot be written.
    """
    require_onnx()
    folder = make_folder(folder)
    tokenizer = tokenizer_json(pipe.text_encoder)
    contents = (onnx_model(pipe, half), tokenizer.encode(), readme(pipe).encode())
    for name, content in zip(FILES, contents):
        sweep(folder, f".{name}.*.tmp")  # of an export that was killed
        with atomic_write(folder / name) as stream:
            stream.write(content)


def onnx_model(pipe: TextToImagePipeline, half: bool = False) -> bytes:
    """The content of model.onnx. Raises UserError, one line, where ONNX lacks one of its operations."""
    model = _translate(EndToEndModel(pipe).eval(), pipe.generator.z_dim).model_proto
    if half:
        halve_weights(model)
    return model.SerializeToString()


def halve_weights(model: Any) -> None:
    """Store the large float32 weights of an ONNX model in 16 bits; it computes in float32, as before.

    Each becomes fp16, or whole numbers with a scale a row or a column: whichever is nearest. fp16 alone rounds text
    encoders so much that drawings differ by up to 11 of 255, whole numbers by 2 (the built-in model, 20 prompts).
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    restored = []
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < SMALL:
            continue
        name, value = tensor.name, numpy_helper.to_array(tensor)
        packed, scale = pack(value)
        tensor.CopyFrom(numpy_helper.from_array(packed, f"{name}.packed"))
        cast = name if scale is None else f"{name}.numbers"
        restored.append(helper.make_node("Cast", [f"{name}.packed"], [cast], to=TensorProto.FLOAT))
        if scale is not None:
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            restored.append(helper.make_node("Mul", [cast, f"{name}.scale"], [name]))
    for node in reversed(restored):
        graph.node.insert(0, node)


def pack(value: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """float32 of any shape as fp16 without a scale, or as int16 with one that multiplies it: the nearer one."""
    with np.errstate(over="ignore"):
        ways: list[tuple[np.ndarray, np.ndarray | None]] = [(value.astype(np.float16), None)]
    for axis in (0, value.ndim - 1) if value.ndim > 1 else ():
        largest = np.abs(value).max(tuple(other for other in range(value.ndim) if other != axis), keepdims=True)
        scale = np.where(largest > 0, largest / 32767, 1).astype(np.float32)
        ways.append((np.rint(value / scale).astype(np.int16), scale))

    def error(way: tuple[np.ndarray, np.ndarray | None]) -> float:
        packed, scale = way
        return float(np.square(packed.astype(np.float32) * (1 if scale is None else scale) - value).sum())

    return min(ways, key=error)


def require_onnx() -> None:
    """Raises UserError, one line, where the packages that torch's exporter needs are not installed."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'ONNX export needs packages that are not installed ({error.name}): pip install "t2i[onnx]"'
        ) from error


def tokenizer_json(encoder: Any) -> str:
    """The encoder's tokenizer as the library tokenizers reads it, cutting and padding captions. Raises UserError."""
    from tokenizers import Tokenizer

    theirs, pad = encoder.tokenizer, {}  # {}: padding with 0
    if isinstance(encoder, TrainedEncoder):
        serialised = theirs.serialised
    elif isinstance(theirs, Tokenizer):
        serialised = theirs.to_str()
    elif getattr(theirs, "backend_tokenizer", None) is not None:  # a tokenizer of transformers
        serialised = theirs.backend_tokenizer.to_str()
        if theirs.pad_token_id is not None:
            pad = {"pad_id": theirs.pad_token_id, "pad_token": theirs.pad_token}
    else:
        raise UserError(f"the tokenizer of {encoder.name!r} has no tokenizer.json that other tools could read")
    own = Tokenizer.from_str(serialised)
    own.enable_truncation(encoder.max_tokens)
    own.enable_padding(**pad)
    return own.to_str()


def _translate(model: EndToEndModel, z_dim: int) -> Any:
    """The module as torch's ONNXProgram, for any number of images and tokens."""
    ids = torch.tensor([[2, 3, 4, 5, 0], [3, 2, 5, 4, 3]])
    example = (ids, (ids > 0).long(), torch.zeros(len(ids), z_dim), torch.tensor(0.7))
    text = {0: "images", 1: "tokens"}
    sizes = {"input_ids": text, "attention_mask": text, "noise": {0: "images"}, "truncation": {}}
    with _plain_linear(model), torch.no_grad():
        try:
            return torch.onnx.export(
                model, example, dynamo=True, dynamic_shapes=sizes, opset_version=OPSET, verbose=False,
                input_names=list(sizes), output_names=["images"],
            )  # fmt: skip
        except Exception as error:  # torch.export, the translation and the optimiser raise different ones
            raise UserError(f"this model cannot be written as ONNX ({first_line(error.__cause__ or error)})") from error


@contextlib.contextmanager
def _plain_linear(module: nn.Module) -> Iterator[None]:
    """MiniLM's linear layers by torch's own operation, for which ONNX has a counterpart."""
    layers = [layer for layer in module.modules() if isinstance(layer, Linear)]
    for layer in layers:
        layer.quick = False
    try:
        yield
    finally:
        for layer in layers:
            del layer.quick


def readme(pipe: TextToImagePipeline) -> str:
    """README.md: how to generate images with the files, and the facts of the model."""
    prompt = json.dumps((pipe.known_prompts or ["a table"])[0], ensure_ascii=False)
    about, z_dim = pipe.description, pipe.generator.z_dim
    (width, height), channels = about.form.size(pipe.resolution), 4 if about.form.transparent else 3
    terms = about.training.get("licences")
    # To a trained encoder "[PAD]" in a caption is text; tokenizer.json cannot express that.
    trained = isinstance(pipe.text_encoder, TrainedEncoder)
    plain = "\ntokenizer.encode_special_tokens = True" if trained else ""
    licences = f"Licences of its training images: {terms.rstrip('.')}.\n" if terms else ""
    return f"""# A text-to-image model as ONNX

{about.architecture}, {width} x {height} px, text by {about.text_encoder["name"]}, trained on
{about.training.get("data", "unknown data")}; exported by t2i {__version__}.
{licences}
`pip install onnxruntime tokenizers numpy pillow`, and then, in this folder:

```python
import numpy as np
from onnxruntime import InferenceSession
from PIL import Image
from tokenizers import Tokenizer

prompts, seed = [{prompt}], 0
tokenizer = Tokenizer.from_file("tokenizer.json"){plain}
read = tokenizer.encode_batch(prompts)
(images,) = InferenceSession("model.onnx").run(["images"], {{
    "input_ids": np.array([caption.ids for caption in read], np.int64),
    "attention_mask": np.array([caption.attention_mask for caption in read], np.int64),
    "noise": np.random.default_rng(seed).standard_normal((len(prompts), {z_dim}), np.float32),
    "truncation": np.array(1, np.float32),  # 1: as varied as trained; towards 0: the typical image of a prompt
}})
for number, image in enumerate(images):
    Image.fromarray(image).save(f"{{number:03}}.png")
```

images: uint8 [prompts, {height}, {width}, {channels}]. A prompt must not be empty. The seed is numpy's, so the
image differs from that of `t2i generate`, whose noise is
`torch.randn({z_dim}, generator=torch.Generator().manual_seed(seed))`.
"""
