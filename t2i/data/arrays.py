"""Writing arrays and JSON lines, atomically, a part at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from t2i.files import atomic_write


def json_line(value: Any) -> bytes:
    """A value as one line of UTF-8 JSON. What UTF-8 cannot say (a file name's undecodable bytes) is escaped."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def save_array(path: Path, values: np.ndarray) -> None:
    """np.save, but a full disk is an OSError that says so: np.save loses the reason."""
    with atomic_write(path) as stream:
        _write_header(stream, values.shape, values.dtype)
        stream.write(np.ascontiguousarray(values).data)


def save_parts(path: Path, parts: Iterator[np.ndarray]) -> None:
    """As np.save of all parts, one after the other along the first axis, with one of them in memory at a time."""
    with atomic_write(path) as stream:
        count, part = 0, None
        for part in parts:
            if count == 0:
                _write_header(stream, part.shape, part.dtype)
            stream.write(np.ascontiguousarray(part).data)
            count += len(part)
        assert part is not None
        start = stream.tell()
        stream.seek(0)
        _write_header(stream, (count, *part.shape[1:]), part.dtype)  # NumPy leaves room for any count
        stream.seek(start)


def _write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
