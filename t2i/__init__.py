"""t2i: small, fast text-to-image GANs, trained on your own captioned pictures."""

from t2i.version import __version__

__all__ = ["__version__"]
