"""Checks of a set before it is accepted: what the numbers say that a person would see on its contact sheet."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from t2i.data.arrays import save_array
from t2i.data.decoding import Decoded
from t2i.data.records import Framing
from t2i.pixels import PLAIN_FORMAT, PixelFormat

# What is known of each image of a shard, in checks-00000.npy until the data set is finished.
CHECKED = np.dtype([("digest", "<u8"), ("plain", "?"), ("small", "?"), ("long", "?"), ("drawn", "?")])
FLAT = 8  # of 255: an image whose colours all lie within so much is one colour
LONG = 2.0  # width to height, or height to width: beyond it the crop cuts half away
FEW = 0.03  # a share below this is not worth a line
FEW_IMAGES = 8  # below which shares say nothing
COMMON = 0.25  # of all captions, where one text is so many of them


def check_image(
    decoded: Decoded, resolution: int, form: PixelFormat = PLAIN_FORMAT
) -> tuple[int, bool, bool, bool, bool]:
    """A row of CHECKED."""
    pixels = decoded.pixels
    digest = int.from_bytes(hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8).digest(), "little")
    flat = pixels.reshape(-1, pixels.shape[2])
    plain = _is_flat(flat[::61]) and _is_flat(flat)  # few images pass the first, which looks at one pixel in 61
    if decoded.size is None:
        return digest, plain, False, False, True
    wanted = form.size(resolution)
    width, height = (own / there for own, there in zip(decoded.size, wanted))  # 1: no pixel to spare
    return digest, plain, min(width, height) < 1, max(width, height) > LONG * min(width, height), False


def _is_flat(pixels: np.ndarray) -> bool:
    """[N, C]: whether their colours all lie within FLAT."""
    return bool(np.ptp(pixels, axis=0).max() < FLAT)


def save_checks(path: Path, rows: list[tuple[int, bool, bool, bool, bool]]) -> None:
    save_array(path, np.array(rows, CHECKED))


def sum_up(partial: Path, shards: Iterable[int]) -> dict[str, Any]:
    """Shares of the images, 0 to 1: of one colour, equal to another, enlarged, beyond 2:1. Empty for drawn ones."""
    parts = [np.load(partial / f"checks-{shard:05d}.npy", allow_pickle=False) for shard in shards]
    checks = np.concatenate([*parts, np.empty(0, CHECKED)])
    if not len(checks) or checks["drawn"].any():
        return {}
    different = len(np.unique(checks["digest"]))
    return {
        "one_colour": round(float(checks["plain"].mean()), 4),
        "equal": round((len(checks) - different) / len(checks), 4),
        "enlarged": round(float(checks["small"].mean()), 4),
        "beyond_2_to_1": round(float(checks["long"].mean()), 4),
    }


def common_caption(partial: Path) -> float:
    """The share of the commonest caption among all captions."""
    uses = np.load(partial / "picture-captions.npy", allow_pickle=False)
    return round(float(np.bincount(uses).max() / len(uses)), 4)


def remarks(shares: dict[str, Any], images: int, resolution: int, framing: Framing) -> list[str]:
    """What is to be said of a set of so many images, each with the option that helps."""
    if images < FEW_IMAGES:
        return []
    other = "black" if sum(framing.background) > 382 else "white"
    help = f" (where they are transparent, --background {other} or --channels rgba may show it)"
    lines = {
        "one_colour": "are of one colour: nothing is seen on them" + ("" if framing.form.transparent else help),
        "equal": "are equal to another one (a validation share, --val-fraction, would hold what training has seen)",
        "enlarged": f"are smaller than {resolution} px and were enlarged (--min-size {resolution} leaves them out, a "
        "smaller --resolution fits them)",
        "beyond_2_to_1": "have another shape, and the crop cuts more than half away (--fit pad keeps all of them, "
        "--aspect gives them their shape)",
    }
    if framing.fit == "pad":
        del lines["beyond_2_to_1"]
    said = [f"{shares[name]:.0%} of the images {line}" for name, line in lines.items() if shares.get(name, 0) >= FEW]
    if shares.get("common_caption", 0) >= COMMON:
        said.append(
            f"{shares['common_caption']:.0%} of the captions are the same text: there is little to learn from it "
            "(captions that differ, or --caption-from name or folder)"
        )
    return said
