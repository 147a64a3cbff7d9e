"""t2i: small, fast text-to-image GANs, trained on your own captioned pictures.

The public names are imported when they are first used, so that `import t2i` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from t2i.version import __version__

if TYPE_CHECKING:
    from t2i.data.prepared import PreparedDataset
    from t2i.pipeline import TextToImagePipeline

_LAZY = {"PreparedDataset": "t2i.data.prepared", "TextToImagePipeline": "t2i.pipeline"}

__all__ = ["PreparedDataset", "TextToImagePipeline", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 't2i' has no attribute {name!r}")
