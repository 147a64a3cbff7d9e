"""Captions of synthetic shapes, and a vocabulary of them, for the tests of the text encoder that is trained."""

import os
import subprocess
import sys

from t2i.data.sources.shapes import ShapesSource

RECORDS = [ShapesSource(400).record(index) for index in range(400)]
CAPTIONS = [caption for record in RECORDS for caption in record.captions]
PROMPTS = ["a red circle", "a small blue square left of a large green ring on a white background", "zebras, 2 of them"]


def in_another_process(code: str, *args: object, **environment: str) -> str:
    """What a Python program prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], check=True, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    return done.stdout
