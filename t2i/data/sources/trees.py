"""Where a source's files lie: a folder, or a zip of one. Both list their files and open them by name."""

import io
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from t2i.data.located import FileImage, ZipImage, opened_zip, read_member
from t2i.data.records import ImageError, ImageLocator
from t2i.data.safe_paths import inside, on_disk, open_file, seen
from t2i.data.sources.common import check_folder, counted
from t2i.data.sources.names import Names
from t2i.errors import UserError
from t2i.files import describe_os_error, first_line

# What t2i writes begins so (files.write_json).
_OWN = {"dataset.json": b'{\n  "format": ', "plan.json": b'{\n  "format": ', "config.json": b'{\n  "t2i_version": '}
_OWN_PNG = b"tEXtsoftware\0t2i "
MAX_LIST_BYTES = 4 * 2**30  # of a list inside a zip


class Tree(Protocol):
    """Files by name: relative, "/" between folders, as people see them (Unicode, whatever the locale).

    path: where it is, for messages and names. notes: lines for the user on what was left out, after `files`.
    """

    path: Path
    notes: list[str]

    def files(self) -> list[str]:
        """Every file, sorted; without hidden ones and without what t2i wrote. Raises UserError."""
        ...

    def find(self, name: str) -> tuple[str, str]:
        """("there", the file's name), ("missing", name) or ("outside", name), for a name out of a document.

        "outside": a link in it leads out of the tree. Opens nothing. Raises TwoFit.
        """
        ...

    def image(self, name: str) -> ImageLocator: ...

    def open(self, name: str) -> BinaryIO:
        """A file's bytes, as a stream. Raises ImageError."""
        ...

    def sub(self, folder: str) -> "Tree":
        """The part of it in a folder; "" is all of it."""
        ...


def open_tree(path: Path | str, what: str, follow: bool) -> Tree:
    """The folder, or the zip, at `path`. what: what was expected there. follow: links may lead out of it.

    Raises UserError, one line.
    """
    path = Path(path)
    if path.suffix.lower() == ".zip" and path.is_file():
        return ZipTree(path)
    return FolderTree(check_folder(path, what), follow)


def read(tree: Tree, name: str, limit: int) -> bytes | None:
    """A whole file; None where it has more than `limit` bytes. Raises ImageError."""
    with tree.open(name) as stream:
        try:
            data = stream.read(limit + 1)
        except Exception as error:  # a damaged zip's
            raise ImageError("damaged", first_line(error)) from error
    return data if len(data) <= limit else None


class FolderTree:
    """A folder. Links to folders are followed, each folder once; with `follow` False not those that lead out of it."""

    def __init__(self, path: Path, follow: bool):
        self.path, self.follow = path, follow
        self.notes: list[str] = []
        self._files: list[str] | None = None
        self._names: Names | None = None
        self._leaves: dict[str, bool] = {}  # by sub-folder

    def files(self) -> list[str]:
        if self._files is None:
            own = _is_own_folder(self._head)
            if own:
                raise UserError(f"{self.path}: t2i wrote this folder ({own} is in it); give the folder of the images")
            self._files = self._list()
        return self._files

    def _list(self) -> list[str]:
        visited: set[tuple[int, int]] = set()
        own: list[str] = []
        found, links = self._walk(str(self.path), "", visited, own)
        outside: list[str] = []
        again: list[str] = []
        base = os.path.realpath(self.path).rstrip(os.sep) + os.sep
        while links:  # the true folders come first: of a folder with two names, the true one counts
            path, name = links.pop(0)
            status = os.stat(path)
            if not self.follow and not (os.path.realpath(path) + os.sep).startswith(base):
                outside.append(name)
            elif (status.st_dev, status.st_ino) in visited:
                again.append(name)
            else:
                files, more = self._walk(path, name + "/", visited, own)
                found += files
                links += more
        for names, noun, what in (
            (outside, "linked folder", "that leads out of the folder: --follow-links follows it"),
            (again, "linked folder", "that is read under another name"),
            (own, "folder", "that t2i wrote left out"),
        ):
            if names:
                self.notes.append(counted(sorted(names), noun, what))
        return sorted(found)

    def _walk(
        self, folder: str, prefix: str, visited: set[tuple[int, int]], own: list[str]
    ) -> tuple[list[str], list[tuple[str, str]]]:
        """The files below a folder, and the links to folders in it: (path, name). Raises UserError."""
        found: list[str] = []
        links: list[tuple[str, str]] = []
        waiting = [(folder, prefix)]
        while waiting:
            folder, prefix = waiting.pop()
            try:
                status = os.stat(folder)
                visited.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                raise describe_os_error(error, error.filename or folder) from error
            if prefix and any(entry.name in _OWN for entry in listed) and _is_own_folder(self._heads(prefix)):
                own.append(prefix.rstrip("/"))
                continue
            for entry in listed:
                if entry.name.startswith("."):
                    continue
                name = prefix + seen(entry.name)
                try:
                    linked = entry.is_symlink() and entry.is_dir()
                except OSError:  # a link that leads round in a circle
                    linked = False
                if linked:
                    links.append((entry.path, name))
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, name + "/"))
                else:
                    found.append(name)
        return found, links

    def _heads(self, prefix: str) -> Callable[[str], bytes]:
        return lambda name: self._head(prefix + name)

    def _head(self, name: str) -> bytes:
        try:
            with open_file(os.path.join(self.path, on_disk(name)), name) as stream:
                return stream.read(64)
        except (OSError, ImageError):
            return b""

    def find(self, name: str) -> tuple[str, str]:
        status = self._status(name)
        if status != "missing":
            return status, name
        if self._names is None:
            self._names = Names(self.files())
        other = self._names.find(name)
        return (self._status(other), other) if other is not None else ("missing", name)

    def _status(self, name: str) -> str:
        """One lstat a name: folders are remembered."""
        parent, _, _ = name.rpartition("/")
        if parent not in self._leaves:
            self._leaves[parent] = parent != "" and self._outside(parent)
        if self._leaves[parent]:
            return "outside"
        try:
            mode = os.lstat(os.path.join(self.path, on_disk(name))).st_mode
        except (OSError, ValueError):
            return "missing"
        return "outside" if stat.S_ISLNK(mode) and self._outside(name) else "there"

    def _outside(self, name: str) -> bool:
        if self.follow:
            return False
        try:
            inside(str(self.path), name)
        except ImageError:
            return True
        return False

    def image(self, name: str) -> ImageLocator:
        return FileImage(str(self.path), name, trusted=self.follow)

    def open(self, name: str) -> BinaryIO:
        path = os.path.join(self.path, on_disk(name)) if self.follow else inside(str(self.path), name)
        return open_file(path, name)

    def sub(self, folder: str) -> "FolderTree":
        return FolderTree(self.path / on_disk(folder), self.follow) if folder else self


class ZipTree:
    """A zip. Nothing is unpacked to the disk, so no name in it can lead anywhere. A single folder at its top is its
    root."""

    def __init__(self, path: Path, folder: str | None = None):
        self.path, self._folder = path, folder
        self.notes: list[str] = []
        try:
            archive = opened_zip(str(path), path.stat().st_mtime_ns)
        except OSError as error:
            raise describe_os_error(error, path) from error
        except Exception as error:  # zipfile raises BadZipFile, ValueError, struct.error, NotImplementedError, ...
            raise UserError(f"{path}: this is not a readable zip file ({first_line(error)})") from error
        self._archive = archive
        members: dict[str, zipfile.ZipInfo] = {}
        doubled = []
        for member in archive.infolist():
            name = member.filename.replace("\\", "/").removeprefix("./")
            if name.endswith("/") or any(part.startswith(".") for part in name.split("/")):
                continue
            if name in members:
                doubled.append(name)
            members[name] = member
        if folder is None:
            tops = {name.split("/", 1)[0] for name in members}
            top = tops.pop() + "/" if len(tops) == 1 and all("/" in name for name in members) else ""
            self._folder = folder = top
        if doubled:
            self.notes.append(counted(doubled, "file", "that the zip has twice: the last one counts"))
        members = {name[len(folder) :]: member for name, member in members.items() if name.startswith(folder)}
        own = {name.rpartition("/")[0] for name in members if self._is_own(name, members)}
        if "" in own:
            raise UserError(f"{path}: t2i wrote what is in this zip; give the images that it was made from")
        kept = {name: member for name, member in members.items() if not any(name.startswith(f + "/") for f in own)}
        if own:
            self.notes.append(counted(sorted(own), "folder", "that t2i wrote left out"))
        self._members = kept
        self._names = Names(kept)

    def _is_own(self, name: str, members: dict[str, zipfile.ZipInfo]) -> bool:
        sign = _OWN.get(name.rpartition("/")[2])
        if sign is None:
            return False
        try:
            with self._archive.open(members[name]) as stream:
                return stream.read(len(sign)) == sign
        except Exception:
            return False

    def files(self) -> list[str]:
        return sorted(self._members)

    def find(self, name: str) -> tuple[str, str]:
        found = self._names.find(name)
        return ("there", found) if found is not None else ("missing", name)

    def image(self, name: str) -> ImageLocator:
        member = self._members[name]
        return ZipImage(str(self.path), member.filename, member.file_size)

    def open(self, name: str) -> BinaryIO:
        try:
            return io.BytesIO(read_member(self._archive, self._members[name], MAX_LIST_BYTES))
        except ImageError:
            raise
        except Exception as error:  # BadZipFile, zlib.error, RuntimeError (a password), NotImplementedError, ...
            raise ImageError("damaged", f"in {self.path.name}: {first_line(error)}") from error

    def sub(self, folder: str) -> "ZipTree":
        return ZipTree(self.path, f"{self._folder}{folder}/") if folder else self


def _is_own_folder(head: Callable[[str], bytes]) -> str:
    """The name of the file that says that t2i wrote the folder, or ""."""
    return next((name for name, sign in _OWN.items() if head(name).startswith(sign)), "")


def is_own_png(tree: Tree, name: str) -> bool:
    """Whether t2i drew this image: such a PNG says so before its pixels."""
    try:
        with tree.open(name) as stream:
            start = stream.read(8192)
    except (ImageError, OSError):
        return False
    return start.startswith(b"\x89PNG\r\n\x1a\n") and _OWN_PNG in start
