"""Walks over captioned pictures as users have them: COCO, two folders, an imagefolder, tar shards."""

from t2i.data.sources.coco import CocoSource
from t2i.data.sources.common import clean_captions, source_name
from t2i.data.sources.folders import FolderPairSource
from t2i.data.sources.imagefolder import ImageFolderSource
from t2i.data.sources.shards import ShardSource

__all__ = [
    "CocoSource",
    "FolderPairSource",
    "ImageFolderSource",
    "ShardSource",
    "clean_captions",
    "source_name",
]
