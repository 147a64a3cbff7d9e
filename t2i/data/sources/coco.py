"""COCO captions: pictures in a folder, captions in one JSON document.

The document may come from anywhere. It is checked whole before anything it says is used: a malformed one, or
one with a file name that leads out of the picture folder, is refused in one line.
"""

import contextlib
import io
import json
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from t2i.data.images import FilePicture
from t2i.data.records import Record, Skip
from t2i.data.safe_paths import leaves_folder
from t2i.data.sources.common import (
    Presence,
    check_folder,
    check_split,
    clean_captions,
    counted,
    plural,
    read_bytes,
    shown,
    source_name,
)
from t2i.errors import UsageError, UserError
from t2i.files import first_line

YEARS = ("2017", "2014", "")
MAX_ID = 2**63
_NAME_BOTH = "; name the folder and the file with --images and --annotations"


class CocoSource:
    """A COCO captions data set.

    root: the folder that holds `train2017/` and `annotations/captions_train2017.json`, or one of their usual
        variants. Or `images` and `annotations`: the picture folder and the JSON file themselves.
    In the order of the file names. Raises UserError, one line, for what is missing or malformed.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        split: str = "train",
        images: Path | str | None = None,
        annotations: Path | str | None = None,
    ):
        self.split = check_split(split)
        if root is None and (images is None or annotations is None):
            raise UsageError("a COCO data set needs its root, or both --images and --annotations")
        if root is not None:
            root = check_folder(root, "a COCO data set (train2017/, annotations/captions_train2017.json)")
            if images is None or annotations is None:
                found = _find(root, split, images is None, annotations is None)
                images, annotations = images or found[0], annotations or found[1]
        assert images is not None and annotations is not None
        self.images = check_folder(images, "the folder with COCO's pictures")
        self.annotations = Path(annotations)
        self.name = source_name(root if root is not None else self.images)
        self.notes: list[str] = []

        document = _read_document(self.annotations)
        pictures = _check_pictures(document, self.annotations)
        captions, orphans = _check_captions(document, self.annotations, pictures)
        if orphans:
            self.notes.append(f"{plural(orphans, 'caption')} of pictures that the file does not list")
        del document
        index = _build_index(pictures, captions)
        entries: dict[str, list[str]] = {}  # file name -> its raw captions, all that is kept of the document
        for identity, file in pictures.items():
            found = index.loadAnns(index.getAnnIds(imgIds=[identity]))
            entries.setdefault(file, []).extend(annotation["caption"] for annotation in found)
        self._entries = sorted(entries.items())
        if len(entries) < len(pictures):
            more = len(pictures) - len(entries)
            said = f"{plural(more, 'image')} with a file that another names too; their captions are put together"
            self.notes.append(said)
        self._present = _check_files(self.images, pictures, self.annotations)
        if not self._present:
            raise UserError(
                f"{self.images}: none of the {len(pictures)} pictures that {self.annotations} names is here "
                f"({shown(self._entries[0][0])}, for one); give the right folder with --images"
            )
        missing = sorted(set(pictures.values()) - self._present)
        if missing:
            self.notes.append(counted(missing, "picture", "named but not there"))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Record | Skip]:
        root = str(self.images)
        for file, raw in self._entries:
            captions = clean_captions(raw)
            if file not in self._present:
                yield Skip(file, "missing file", file)
            elif not captions:
                yield Skip(file, "no caption")
            else:
                yield Record(file, captions, FilePicture(root, file))

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "coco",
            "images": os.path.basename(os.path.abspath(self.images)),
            "annotations": self.annotations.name,
        }


def _find(root: Path, split: str, want_images: bool, want_annotations: bool) -> tuple[Path, Path]:
    """The picture folder and the captions file of a split, of one year. Raises UserError: what was tried."""
    folders = []
    files = []
    for year in YEARS:
        part = split + year
        folder = next((f for f in (root / part, root / "images" / part) if f.is_dir()), None)
        names = (f"annotations/captions_{part}.json", f"annotations/{part}.json", f"captions_{part}.json")
        file = next((root / name for name in names if (root / name).is_file()), None)
        if (folder or not want_images) and (file or not want_annotations):
            return folder or root, file or root
        folders += [folder] if folder else []
        files += [file] if file else []
    other = next((s for s in ("train", "val") if s != split and (root / f"{s}2017").is_dir()), None)
    hint = f"; there is a {other} split: --split {other}" if other and not folders and not files else ""
    if want_images and not folders:
        raise UserError(f"{root}: no {split}2017/ or images/{split}2017/ here (nor 2014){hint or _NAME_BOTH}")
    if want_annotations and not files:
        raise UserError(
            f"{root}: no annotations/captions_{split}2017.json or {split}2017.json here (nor 2014)"
            f"{hint or '; name the file with --annotations'}"
        )
    raise UserError(f"{root}: {folders[0].name}/ and {files[0].name} are of different years{_NAME_BOTH}")


def _read_document(path: Path) -> dict[str, Any]:
    data = read_bytes(path)
    try:
        document = json.loads(data.decode("utf-8-sig"))
    # deep nesting: RecursionError; a number of 5,000 digits: ValueError
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: this is not valid JSON ({first_line(error)})") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected a COCO captions document, a JSON object with images and annotations")
    for key in ("images", "annotations"):
        if not isinstance(document.get(key), list):
            raise UserError(f"{path}: this COCO document has no list of {key}")
    if not document["images"]:
        raise UserError(f"{path}: this COCO document lists no images")
    return document


def _check_id(value: object) -> TypeGuard[int | str]:
    if isinstance(value, str):
        return 0 < len(value) <= 256
    return isinstance(value, int) and not isinstance(value, bool) and -MAX_ID <= value < MAX_ID


def _check_pictures(document: dict[str, Any], path: Path) -> dict[int | str, str]:
    """{image id: file name}. Raises UserError for what is malformed, and for a name that leads elsewhere."""
    pictures: dict[int | str, str] = {}
    for number, entry in enumerate(document["images"]):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: images[{number}] is no object")
        identity, file = entry.get("id"), entry.get("file_name")
        if not _check_id(identity):
            raise UserError(f"{path}: images[{number}] has no usable id ({shown(identity)})")
        if not isinstance(file, str) or not file:
            raise UserError(f"{path}: image {shown(identity)} has no file_name ({shown(file)})")
        if identity in pictures:
            raise UserError(f"{path}: two images have the id {shown(identity)}")
        refused = leaves_folder(file)
        if refused:
            where = f"image {shown(identity)} has the file name {shown(file)}"
            raise UserError(f"{path}: {where}: {refused}; the whole file is refused")
        pictures[identity] = posixpath.normpath(file)
    return pictures


def _check_captions(
    document: dict[str, Any], path: Path, pictures: dict[int | str, str]
) -> tuple[list[dict[str, Any]], int]:
    """The annotations of known pictures, cut down to what is needed, and the count of the others."""
    captions: list[dict[str, Any]] = []
    orphans = 0
    for number, entry in enumerate(document["annotations"]):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: annotations[{number}] is no object")
        identity, caption = entry.get("image_id"), entry.get("caption")
        if not _check_id(identity):
            raise UserError(f"{path}: annotations[{number}] has no usable image_id ({shown(identity)})")
        if "caption" not in entry:
            raise UserError(f"{path}: annotations[{number}] has no caption; is this the captions_*.json file?")
        if not isinstance(caption, str):
            raise UserError(f"{path}: annotations[{number}]'s caption is no text ({shown(caption)})")
        if identity in pictures:
            # Own ids: pycocotools indexes by them, and drops silently what shares one.
            captions.append({"id": len(captions), "image_id": identity, "caption": caption})
        else:
            orphans += 1
    return captions, orphans


def _build_index(pictures: dict[int | str, str], captions: list[dict[str, Any]]) -> Any:
    """pycocotools' COCO over a checked document (given a path, it would print, assert and raise KeyError)."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = {
            "images": [{"id": identity, "file_name": file} for identity, file in pictures.items()],
            "annotations": captions,
        }
        index.createIndex()
    return index


def _check_files(folder: Path, pictures: dict[int | str, str], path: Path) -> set[str]:
    """The files that are there. Opens nothing. Raises UserError for a name that leaves `folder` by a link."""
    presence = Presence(folder)
    present = set()
    for identity, file in pictures.items():
        match presence(file):
            case "there":
                present.add(file)
            case "outside":
                raise UserError(
                    f"{path}: image {shown(identity)}, {shown(file)}, is a link that leads out of {folder}; "
                    "refused. Copy the picture there, or give the folder that it is in with --images"
                )
    return present
