"""Walks over captioned images as users have them: COCO, folders, lists, an imagefolder, parquet, tar shards."""

from t2i.data.sources.coco import CocoSource
from t2i.data.sources.common import clean_captions, source_name
from t2i.data.sources.folders import FolderPairSource
from t2i.data.sources.imagefolder import ImageFolderSource
from t2i.data.sources.lists import ListSource, annotations_source
from t2i.data.sources.named import NamedSource
from t2i.data.sources.parquet import ParquetSource
from t2i.data.sources.shards import ShardSource

__all__ = [
    "CocoSource",
    "FolderPairSource",
    "ImageFolderSource",
    "ListSource",
    "NamedSource",
    "ParquetSource",
    "ShardSource",
    "annotations_source",
    "clean_captions",
    "source_name",
]
