"""t2i: small, fast text-to-image GANs, trained on your own captioned images.

Public names are imported at their first use, so that `import t2i` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from t2i.version import __version__

if TYPE_CHECKING:
    from t2i.compat import COCODataset as COCODataset
    from t2i.compat import ImageLabelDataset as ImageLabelDataset
    from t2i.compat import generate_image_from_text as generate_image_from_text
    from t2i.compat import get_loader as get_loader
    from t2i.compat import get_networks as get_networks
    from t2i.compat import train_fn as train_fn
    from t2i.data.prepared import PreparedDataset as PreparedDataset
    from t2i.pipeline import TextToImagePipeline as TextToImagePipeline

_LAZY = {
    "COCODataset": "t2i.compat",
    "ImageLabelDataset": "t2i.compat",
    "PreparedDataset": "t2i.data.prepared",
    "TextToImagePipeline": "t2i.pipeline",
    "generate_image_from_text": "t2i.compat",
    "get_loader": "t2i.compat",
    "get_networks": "t2i.compat",
    "train_fn": "t2i.compat",
}

__all__ = [*_LAZY, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 't2i' has no attribute {name!r}")
