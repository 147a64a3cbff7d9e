"""Colour profiles: pixels become sRGB, which screens show and networks learn. Worker processes import this file."""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image

SAME = 3  # of 255: profiles that differ from sRGB by less (there are dozens of sRGB's) leave the pixels as they are
MAX_PROFILE = 4 * 2**20  # bytes


def has_own_ink(image: Image.Image, profile: Any) -> bool:
    """Whether it is CMYK with a profile that can be used: it says what those inks look like, and is applied first."""
    return image.mode == "CMYK" and _transform_of(profile, "CMYK") is not None


def to_srgb(image: Image.Image, profile: Any) -> Image.Image:
    """L, RGB, RGBa or CMYK with an ICC profile (bytes, or None) -> L, RGB or RGBa in sRGB.

    A damaged profile, one of another kind than the pixels, and one that is sRGB change nothing.
    """
    if not profile:
        return image
    if image.mode == "RGBa":
        transform = _transform_of(profile, "RGB")
        if transform is None:
            return image
        plain = image.convert("RGBA")
        alpha = plain.getchannel("A")
        plain = _applied(transform, plain.convert("RGB"))
        plain.putalpha(alpha)
        return plain.convert("RGBa")
    transform = _transform_of(profile, image.mode)
    return image if transform is None else _applied(transform, image)


def _applied(transform: Any, image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    return ImageCms.applyTransform(image, transform) or image


def _transform_of(profile: Any, mode: str) -> Any:
    if not isinstance(profile, bytes) or len(profile) > MAX_PROFILE or mode not in _SPACES:
        return None
    return _transform(profile, mode)


_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> Any:
    """From the profile to sRGB, for pixels of `mode`; None where there is nothing to do, or it cannot be read."""
    try:
        from PIL import ImageCms

        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "CMYK":
            return transform
        ramp = np.linspace(0, 255, 9).round().astype(np.uint8)
        cube = np.stack(np.meshgrid(ramp, ramp, ramp), axis=-1).reshape(27, 27, 3)
        probe = Image.fromarray(cube if mode == "RGB" else cube[..., 0])
        seen = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int)
        before = np.asarray(probe.convert("RGB")).astype(int)
        return None if np.abs(seen - before).max() <= SAME else transform
    except Exception:  # littlecms says no: metadata never costs an image
        return None
