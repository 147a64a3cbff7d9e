"""Animations: frames as GIF, WebP or MP4. Only Pillow and numpy are imported; MP4 takes imageio-ffmpeg (t2i[video])."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t2i.errors import UsageError, UserError
from t2i.files import atomic_write, describe_os_error, first_line, make_folder
from t2i.image_files import as_json, exif_of

SUFFIXES = (".gif", ".webp", ".mp4")


def check_animation_name(path: Path | str) -> None:
    """Raise UsageError, one line, where the suffix names no format that `save_animation` writes, or its extra lacks."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        what = f"the suffix {path.suffix}" if path.suffix else "a name without a suffix"
        raise UsageError(f"{path}: {what} names no animation; use one of {', '.join(SUFFIXES)}")
    if path.suffix.lower() == ".mp4":
        _ffmpeg()


def save_animation(
    frames: Sequence[Image.Image], path: Path | str, seconds: Sequence[float], text: dict[str, str] | None = None
) -> None:
    """Write an animation atomically; GIF and WebP repeat for ever.

    frames: N >= 1 RGB images; smaller ones are laid on white at the top left of the largest size. seconds: how long
    each is shown. text: metadata, which `read_image_text` reads from GIF and WebP. The suffix of `path` picks the
    format. Raises UsageError at an unknown suffix, UserError where the file cannot be written.
    """
    path = Path(path)
    check_animation_name(path)
    frames = _of_one_size(frames)
    make_folder(path.parent)
    if path.suffix.lower() == ".mp4":
        _save_mp4(frames, path, seconds, text or {})
        return
    encoded = io.BytesIO()
    how: dict[str, Any] = {
        "save_all": True,
        "append_images": frames[1:],
        "duration": [round(1000 * s) for s in seconds],
        "loop": 0,
    }
    if path.suffix.lower() == ".gif":
        frames[0].save(encoded, "GIF", comment=as_json(text or {}).encode("ascii"), **how)
    else:
        frames[0].save(encoded, "WEBP", quality=90, exif=exif_of(text or {}), **how)
    with atomic_write(path) as stream:
        stream.write(encoded.getbuffer())


def _of_one_size(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Frames of an even width and height, which video formats ask for."""
    width, height = (-(-max(frame.size[axis] for frame in frames) // 2) * 2 for axis in (0, 1))
    whole = []
    for frame in frames:
        canvas = Image.new("RGB", (width, height), (255, 255, 255))
        canvas.paste(frame.convert("RGB"), (0, 0))
        whole.append(canvas)
    return whole


FPS = 24  # of MP4, which shows a frame for a whole number of these


def _save_mp4(frames: list[Image.Image], path: Path, seconds: Sequence[float], text: dict[str, str]) -> None:
    ffmpeg = _ffmpeg()
    temporary = path.with_name(f".{path.stem}.{os.urandom(4).hex()}.tmp.mp4")
    about = ["-metadata", f"comment={as_json(text)}", "-movflags", "+faststart"]
    try:
        writer = ffmpeg.write_frames(
            str(temporary), frames[0].size, fps=FPS, macro_block_size=2, quality=8, output_params=about
        )
        writer.send(None)
        for frame, shown in zip(frames, seconds, strict=True):
            for _ in range(max(1, round(shown * FPS))):
                writer.send(np.asarray(frame))
        writer.close()
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None:
            raise describe_os_error(error, path) from error
        raise UserError(f"{path}: ffmpeg failed ({first_line(error)})") from error  # imageio-ffmpeg's own
    finally:
        temporary.unlink(missing_ok=True)


def _ffmpeg() -> Any:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UsageError(".mp4 needs imageio-ffmpeg: pip install 't2i[video]'; .gif and .webp do without") from error
    return imageio_ffmpeg
