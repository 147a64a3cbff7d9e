"""A cache of computed arrays in a data set's own folder: DATA/evaluation/*.safetensors.

A file holds its key (networks, data, settings) and a hash of its values. A file that does not match, torn and damaged
ones too, counts as absent and is computed again. A folder that cannot be written costs time, never the result.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from t2i.errors import UserError
from t2i.files import atomic_write, make_folder, sweep

FOLDER = "evaluation"
Arrays = dict[str, np.ndarray]


def cached(data: Path, name: str, key: dict[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """The arrays called `name` of the data set at `data`: read if they are cached for this key, else made.

    key: JSON-able; all that the arrays depend on. make: computes the arrays.
    """
    text = json.dumps(key, sort_keys=True)
    short = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = data / FOLDER / f"{name}-{short}.safetensors"
    arrays = _read(path, text)
    if arrays is None:
        arrays = make()
        with contextlib.suppress(UserError):  # a read-only data set, a full disk
            sweep(make_folder(path.parent), f".{path.name}.*.tmp")  # of an evaluation that was killed
            content = safetensors.numpy.save(arrays, {"key": text, "sha256": _digest(arrays)})
            with atomic_write(path) as stream:
                stream.write(content)
    return arrays


def _read(path: Path, key: str) -> Arrays | None:
    try:
        with safetensors.safe_open(path, "np") as file:
            facts = file.metadata() or {}
            if facts.get("key") != key:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    except Exception:  # absent or damaged: OSError, SafetensorError, and what NumPy says of a strange header
        return None
    return arrays if facts.get("sha256") == _digest(arrays) else None


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()
