"""What the tests of every source share: a picture, and the checks that hold for all of them."""

import json

import pytest
from PIL import Image

from t2i.data.records import Record, Skip
from t2i.data.sources import (
    clean_captions,
)
from t2i.errors import UserError

Image.new("RGB", (16, 16), "red").save(PICTURE, "PNG")
PICTURE = PICTURE.getvalue()


def write(path, data=PICTURE):
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
