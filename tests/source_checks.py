"""What the tests of every source share: an image, and the checks that hold for all of them."""

import io
import json

import pytest
from PIL import Image

from t2i.data.records import Record, Skip
from t2i.data.sources import (
    clean_captions,
)
from t2i.errors import UserError

_png = io.BytesIO()
Image.new("RGB", (16, 16), "red").save(_png, "PNG")
IMAGE = _png.getvalue()


def write(path, data=IMAGE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def walk(source):
    """({key: captions}, {key: reason}), after the checks that hold for every source."""
    entries = list(source)
    assert entries == list(source), "a second walk differs"
    assert len(source) == len(entries)
    records = [entry for entry in entries if isinstance(entry, Record)]
    skips = [entry for entry in entries if isinstance(entry, Skip)]
    assert len({record.key for record in records}) == len(records), "keys are not unique"
    for record in records:
        assert record.captions == clean_captions(record.captions) != ()
    json.dumps(source.describe())
    for text in (*(e.key for e in entries), *(s.detail for s in skips), *source.notes):
        text.encode()
    assert source.name and set(source.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    return {r.key: r.captions for r in records}, {s.key: s.reason for s in skips}


def refused(make, *words):
    with pytest.raises(UserError) as caught:
        list(make())
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    for word in words:
        assert str(word) in text, text
    return text


ROWS = [("a.png", "an image"), ("sub/b.png", "another, with a comma"), ("gone.png", "not there")]


def imagefolder(root, kind, rows=ROWS, column="text"):
    write(root / "a.png")
    write(root / "sub/b.png")
    match kind:
        case "jsonl":
            lines = [json.dumps({"file_name": name, column: caption}) for name, caption in rows]
            write(root / "metadata.jsonl", "\ufeff" + "\n\n".join(lines) + "\n")
        case "csv":
            body = "".join(f'{name},"{caption}",1\r\n' for name, caption in rows)
            write(root / "metadata.csv", f"file_name,{column},width\r\n{body}")
        case "parquet":
            pyarrow = pytest.importorskip("pyarrow")
            import pyarrow.parquet as parquet

            table = {"file_name": [r[0] for r in rows], column: [r[1] for r in rows], "width": [1] * len(rows)}
            parquet.write_table(pyarrow.table(table), root / "metadata.parquet")
    return root
