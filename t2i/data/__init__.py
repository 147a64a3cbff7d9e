"""Captioned images: read from their sources, prepared, and drawn from in training."""

from pathlib import Path

DATA_ROOT = Path("t2i-data")  # where prepared data sets are made and looked for
