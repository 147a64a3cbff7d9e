"""COCO captions: images in a folder, captions in one JSON document.

The document may come from anywhere. A flaw of an entry costs that entry; a file name that leads out of the image
folder refuses the whole document, in one line.
"""

import contextlib
import io
import math
import os
import re
from pathlib import Path
from typing import Any

from t2i.data.sources.common import check_split, plural, read_bytes, shown, source_name
from t2i.data.sources.listed import ListedSource, RowList
from t2i.data.sources.names import plain
from t2i.data.sources.rows import Row, read_document
from t2i.data.sources.trees import Tree, ZipTree, open_tree
from t2i.errors import UsageError, UserError

YEARS = ("2017", "2014", "")
MAX_ID = 2**63
_NAME_BOTH = "; name the folder and the file with --images and --annotations"
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")


class CocoSource(ListedSource):
    """A COCO captions data set.

    root: the folder (or zip) that holds `train2017/` and `annotations/captions_train2017.json`, or one of their usual
        variants. Or `images` and `annotations`: the image folder and the JSON file themselves; `document`: what is
        in that file, where it has been read already.
    follow: links may lead out of the image folder. In the order of the file names. Ids are compared as numbers where
    they read as such (5, "5", 5.0). Raises UserError, one line, for what is missing or malformed.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        split: str = "train",
        images: Path | str | None = None,
        annotations: Path | str | None = None,
        follow: bool = False,
        document: Any = None,
    ):
        self.split = check_split(split)
        if root is None and (images is None or annotations is None):
            raise UsageError("a COCO data set needs its root, or both --images and --annotations")
        tree: Tree | None = None
        label = str(annotations)
        if root is not None:
            whole = open_tree(root, "a COCO data set (train2017/, annotations/captions_train2017.json)", follow)
            root = whole.path
            if images is None or annotations is None:
                folder, file = _find(whole, split, images is None, annotations is None)
                if images is None:
                    tree = whole.sub(folder)
                    images = whole.path / folder
                if annotations is None:
                    annotations = whole.path / file
                    label = str(annotations)
                    if isinstance(whole, ZipTree):
                        document = read_document(whole.open(file), label)
        assert images is not None and annotations is not None
        tree = tree or open_tree(images, "the folder with COCO's images", follow)
        self.images, self.annotations = Path(images), Path(annotations)
        self.name = source_name(root if root is not None else self.images)
        if document is None:
            document = read_document(io.BytesIO(read_bytes(self.annotations)), label)
        rows, notes = _rows(document, label)
        self._take(tree, [RowList(label, lambda: iter(rows))])
        self.notes = notes + self.notes

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "coco",
            "images": os.path.basename(os.path.abspath(self.images)),
            "annotations": self.annotations.name,
        }


def _rows(document: Any, label: str) -> tuple[list[Row], list[str]]:
    """A row for each file, sorted, then those for what is wrong; and notes. Raises UserError."""
    if not isinstance(document, dict):
        raise UserError(f"{label}: expected a COCO captions document, a JSON object with images and annotations")
    for key in ("images", "annotations"):
        if not isinstance(document.get(key), list):
            raise UserError(f"{label}: this COCO document has no list of {key}")
    if not document["images"]:
        raise UserError(f"{label}: this COCO document lists no images")
    flawed: list[Row] = []
    images = _images(document["images"], flawed)
    captions, orphans = _captions(document["annotations"], images, flawed, label)
    notes = [f"{plural(orphans, 'caption')} of images that the file does not list"] if orphans else []
    index = _build_index(images, captions)
    files: dict[str, Row] = {}
    for identity, (file, where) in images.items():
        found = [annotation["caption"] for annotation in index.loadAnns(index.getAnnIds(imgIds=[identity]))]
        if file in files:
            files[file].captions += found
        else:
            files[file] = Row(where, (file,), found)
    if len(files) < len(images):
        more = len(images) - len(files)
        notes.append(f"{plural(more, 'image')} with a file that another names too; their captions are put together")
    return [files[file] for file in sorted(files)] + flawed, notes


def read_id(value: object) -> int | float | str | None:
    """An id as it is compared: 5, "5", 5.0 and "005" are one; other texts are themselves. None: it is no id."""
    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return int(text.partition(".")[0])
        return text if 0 < len(text) <= 256 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value == int(value) and abs(value) < MAX_ID else value
    return value if -MAX_ID <= value < MAX_ID else None


def _images(entries: list[Any], flawed: list[Row]) -> dict[int | float | str, tuple[str, str]]:
    """{image id: (file name, where it stands)}."""
    images: dict[int | float | str, tuple[str, str]] = {}
    for number, entry in enumerate(entries):
        where = f"images[{number}]"
        if not isinstance(entry, dict):
            flawed.append(Row(where, flaw=("no file name", f"{where} is no object")))
            continue
        identity, file = read_id(entry.get("id")), entry.get("file_name")
        if not isinstance(file, str) or not file.strip():
            cause = f"{where}, image {shown(entry.get('id'))}, has no file_name ({shown(file)})"
            flawed.append(Row(where, flaw=("no file name", cause)))
        elif identity is None:
            cause = f"{where} has no usable id ({shown(entry.get('id'))})"
            flawed.append(Row(where, (file,), flaw=("no usable id", cause)))
        elif identity in images:
            cause = f"{where} has the id {shown(entry.get('id'))} of {images[identity][1].partition(',')[0]}"
            flawed.append(Row(where, (file,), flaw=("second image of one id", cause)))
        else:
            images[identity] = plain(file), f"{where}, image {shown(identity)},"
    return images


def _captions(
    annotations: list[Any], images: dict[int | float | str, tuple[str, str]], flawed: list[Row], label: str
) -> tuple[list[dict[str, Any]], int]:
    """The annotations of known images, cut down to what is needed, and the count of the others."""
    captions: list[dict[str, Any]] = []
    orphans = without = 0
    for number, entry in enumerate(annotations):
        where = f"annotations[{number}]"
        if not isinstance(entry, dict):
            flawed.append(Row(where, flaw=("no usable image_id", f"{where} is no object")))
            continue
        identity = read_id(entry.get("image_id"))
        if identity is None:
            cause = f"{where} has no usable image_id ({shown(entry.get('image_id'))})"
            flawed.append(Row(where, flaw=("no usable image_id", cause)))
        elif identity in images:
            without += "caption" not in entry
            # Own ids: pycocotools indexes by them, and drops silently what shares one.
            captions.append({"id": len(captions), "image_id": identity, "caption": entry.get("caption")})
        else:
            orphans += 1
    if without == len(captions) > 0:
        raise UserError(f"{label}: none of its annotations has a caption; is this the captions_*.json file?")
    return captions, orphans


def _build_index(images: dict[int | float | str, tuple[str, str]], captions: list[dict[str, Any]]) -> Any:
    """pycocotools' COCO over a checked document (given a path, it would print, assert and raise KeyError)."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = {
            "images": [{"id": identity, "file_name": file} for identity, (file, _) in images.items()],
            "annotations": captions,
        }
        index.createIndex()
    return index


def _find(tree: Tree, split: str, want_images: bool, want_annotations: bool) -> tuple[str, str]:
    """The image folder and the captions file of a split, of one year, within the tree. Raises UserError."""
    has_folder, has_file = _looks(tree)
    folders: list[str] = []
    files: list[str] = []
    for year in YEARS:
        part = split + year
        folder = next((name for name in (part, f"images/{part}") if has_folder(name)), None)
        names = (f"annotations/captions_{part}.json", f"annotations/{part}.json", f"captions_{part}.json")
        file = next((name for name in names if has_file(name)), None)
        if (folder or not want_images) and (file or not want_annotations):
            return folder or "", file or ""
        folders += [folder] if folder else []
        files += [file] if file else []
    root = tree.path
    other = next((s for s in ("train", "val") if s != split and has_folder(f"{s}2017")), None)
    hint = f"; there is a {other} split: --split {other}" if other and not folders and not files else ""
    if want_images and not folders:
        raise UserError(f"{root}: no {split}2017/ or images/{split}2017/ here (nor 2014){hint or _NAME_BOTH}")
    if want_annotations and not files:
        raise UserError(
            f"{root}: no annotations/captions_{split}2017.json or {split}2017.json here (nor 2014)"
            f"{hint or '; name the file with --annotations'}"
        )
    name = folders[0].rpartition("/")[2]
    raise UserError(f"{root}: {name}/ and {files[0].rpartition('/')[2]} are of different years{_NAME_BOTH}")


def _looks(tree: Tree) -> tuple[Any, Any]:
    """Whether there is a folder, and a file, of a name."""
    if isinstance(tree, ZipTree):
        files = tree.files()
        return lambda name: any(file.startswith(f"{name}/") for file in files), set(files).__contains__
    return lambda name: (tree.path / name).is_dir(), lambda name: (tree.path / name).is_file()
