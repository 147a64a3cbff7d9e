"""The architectures, one file each; importing this package registers them."""

from t2i.models import dfgan, projected, stylegan, stylegan2
from t2i.models.registry import Architecture, get_architecture, list_architectures

__all__ = ["Architecture", "dfgan", "get_architecture", "list_architectures", "projected", "stylegan", "stylegan2"]
