"""Caption lists in a file of their own: `--images DIR --annotations FILE`."""

import io
import os
from pathlib import Path
from typing import Any

from t2i.data.records import Source
from t2i.data.sources.coco import CocoSource
from t2i.data.sources.common import check_split, read_bytes, source_name
from t2i.data.sources.imagefolder import file_list
from t2i.data.sources.listed import ListedSource, RowList
from t2i.data.sources.rows import document_rows, is_coco, read_document
from t2i.data.sources.trees import open_tree


class ListSource(ListedSource):
    """Images in a folder (or zip), their captions in a list.

    annotations: the list: JSON, JSON lines, CSV, TSV, parquet, Flickr8k's, Karpathy's. See rows.py for what is
    read, ListedSource for the rest.
    """

    def __init__(
        self,
        images: Path | str,
        annotations: Path | str,
        split: str = "train",
        follow: bool = False,
        document: Any = None,
    ):
        tree = open_tree(images, "the folder of the images", follow)
        self.images, self.annotations = Path(images), Path(annotations)
        self.name = source_name(self.images)
        self.split = check_split(split)
        listed = file_list(self.annotations)
        if document is not None:
            document_rows(document, listed.label, split)  # refused now, not in the middle
            listed = RowList(listed.label, lambda: document_rows(document, listed.label, split))
        self._take(tree, [listed])

    def describe(self) -> dict[str, Any]:
        images = os.path.basename(os.path.abspath(self.images))
        return {"kind": "list", "images": images, "annotations": self.annotations.name}


def annotations_source(
    images: Path | str, annotations: Path | str, split: str = "train", follow: bool = False
) -> Source:
    """The source for a list, by what it is: COCO's document, or another one. Raises UserError, one line."""
    path = Path(annotations)
    if path.suffix.lower() != ".json":
        return ListSource(images, annotations, split, follow)
    open_tree(images, "the folder of the images", follow)
    document = read_document(io.BytesIO(read_bytes(path)), str(path))
    if is_coco(document):
        return CocoSource(None, split, images, annotations, follow, document)
    return ListSource(images, annotations, split, follow, document)
