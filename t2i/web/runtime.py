"""onnxruntime-web, which runs ONNX models in a browser: one version of the npm package, fetched once or given."""

import base64
import hashlib
import io
import os
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from t2i.errors import UserError
from t2i.files import atomic_write, describe_os_error, first_line, make_folder, read_json

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/{ARCHIVE}"
FOLDER = "onnxruntime"  # of the two files, in the exported folder
# Name in that folder -> place in the package. Not every web server sends .mjs as JavaScript.
FILES = {
    "ort.wasm.bundle.min.js": "dist/ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm": "dist/ort-wasm-simd-threaded.wasm",
}
BY_HAND = f"run npm pack onnxruntime-web@{VERSION} where npm reaches its registry, and give --runtime {ARCHIVE}"


def read_runtime(given: Path | None = None, say: Callable[[str], None] = lambda line: None) -> dict[str, bytes]:
    """The contents of FILES: of the npm package `given`, its .tgz or its unpacked folder, else fetched once.

    say: takes a line before it is fetched. Raises UserError, one line, also where it is another version.
    """
    if given is not None:
        return _of_folder(given) if given.is_dir() else _of_archive(_read(given), str(given))
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2i" / ARCHIVE
    if kept.is_file() and _integrity(archive := _read(kept)) == INTEGRITY:
        return _of_archive(archive, str(kept))
    say(f"fetching onnxruntime-web {VERSION}, 33 MB, once, from {ADDRESS}")
    try:
        with urllib.request.urlopen(ADDRESS, timeout=60) as response:
            archive = response.read()
    except (OSError, ValueError) as error:  # without a network, or one that breaks off
        raise UserError(f"onnxruntime-web cannot be fetched ({first_line(error)}); {BY_HAND}") from error
    files = _of_archive(archive, ADDRESS)
    make_folder(kept.parent)
    with atomic_write(kept) as stream:
        stream.write(archive)
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise describe_os_error(error, path) from error


def _integrity(archive: bytes) -> str:
    """As npm writes it."""
    return f"sha512-{base64.b64encode(hashlib.sha512(archive).digest()).decode()}"


def _of_archive(archive: bytes, place: str) -> dict[str, bytes]:
    if _integrity(archive) != INTEGRITY:
        raise UserError(f"{place}: this is not the npm package onnxruntime-web {VERSION}; {BY_HAND}")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as package:
        for name, place_there in FILES.items():
            member = package.extractfile(f"package/{place_there}")
            assert member is not None  # the hash says so
            files[name] = member.read()
    return files


def _of_folder(folder: Path) -> dict[str, bytes]:
    about = read_json(folder / "package.json", "package description")
    if (about.get("name"), about.get("version")) != ("onnxruntime-web", VERSION):
        found = f"{about.get('name')!s:.40} {about.get('version')!s:.40}"
        raise UserError(f"{folder}: this is {found}, not onnxruntime-web {VERSION}; {BY_HAND}")
    return {name: _read(folder / place) for name, place in FILES.items()}
