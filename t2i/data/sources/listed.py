"""Images that a list names, with its captions: what all lists share, COCO's among them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from t2i.data.records import Record, Skip
from t2i.data.safe_paths import leaves_folder
from t2i.data.sources.common import clean_captions, counted, is_image_name, plural, printable, shown
from t2i.data.sources.names import TwoFit, plain
from t2i.data.sources.rows import Row, Rows
from t2i.data.sources.trees import Tree
from t2i.errors import UserError


@dataclass(frozen=True)
class RowList:
    """A list. label: what it is called in messages. read: its rows, from the start. folder: which its names start
    from, within the tree ("" or "sub/")."""

    label: str
    read: Callable[[], Rows]
    folder: str = ""


@dataclass(slots=True)
class _Entry:
    where: str
    file: str
    there: bool
    captions: list[Any]
    cause: str


class ListedSource:
    """The rows of lists over the files of a tree, in the order in which the images first appear.

    Rows of one image are put together wherever they stand. A flaw of a row costs the row (a Skip); a name that leads
    out of the tree refuses the whole list. The rows are read twice, one by one: to check and count them (here), and
    for the walk. In memory are the names, and the captions of rows that do not follow the image's first ones.
    Raises UserError, one line, for what is missing or malformed.
    """

    name: str
    split: str

    def _take(self, tree: Tree, lists: list[RowList]) -> None:
        """What a subclass's constructor ends with."""
        self.tree, self._lists = tree, lists
        self._late: dict[str, list[Any]] = {}
        self._count = 0
        self.notes: list[str] = []
        named: set[str] = set()
        group, example, flaw = "", "", ""
        present = captioned = False
        no_texts: list[str] = []
        entries = 0
        for label, entry in self._entries(walking=False):
            if isinstance(entry, Skip):
                self._count += 1
                flaw = flaw or f"{label}: {entry.detail or entry.reason}"
                continue
            entries += 1
            captioned = captioned or bool(entry.captions)
            flaw = flaw or (entry.cause and f"{label}: {entry.cause}")
            if not all(isinstance(caption, str) for caption in entry.captions):
                no_texts.append(f"{entry.file}, {entry.where}")
            if entry.file not in named:
                named.add(entry.file)
                self._count += 1
                group = entry.file
                example = example or entry.file
                present = present or entry.there
            elif entry.file != group:
                self._late.setdefault(entry.file, []).extend(entry.captions)
        where = " and ".join(each.label for each in lists[:2])
        if not self._count:
            raise UserError(f"{where}: it has no rows; expected one an image")
        if not entries or (not captioned and flaw):
            raise UserError(flaw)
        if not captioned:
            raise UserError(f"{where}: none of its {plural(len(named), 'image')} has a caption")
        if not present:
            raise UserError(
                f"{tree.path}: none of the {len(named)} images that {where} names is here ({shown(example)}, for "
                "one); give the folder that they are in"
            )
        alone = [file for file in tree.files() if is_image_name(file) and file not in named]
        self.notes += tree.notes
        if alone:
            self.notes.append(counted(list(map(printable, alone)), "image", "that no list names"))
        if no_texts:
            self.notes.append(counted(no_texts, "row", "with a caption that is no text"))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record | Skip]:
        done: set[str] = set()
        pending: _Entry | None = None
        for _, entry in self._entries(walking=True):
            if isinstance(entry, Skip):
                yield entry
            elif pending is not None and entry.file == pending.file:
                pending.captions.extend(entry.captions)
            elif entry.file not in done:
                if pending is not None:
                    yield self._outcome(pending)
                done.add(entry.file)
                pending = entry
        if pending is not None:
            yield self._outcome(pending)

    def _outcome(self, entry: _Entry) -> Record | Skip:
        raw = [*entry.captions, *self._late.get(entry.file, ())]
        texts = [caption for caption in raw if isinstance(caption, str)]
        captions = clean_captions(texts)
        if not entry.there:
            return Skip(entry.file, "missing file", entry.where)
        if not captions:
            reason = "caption is no text" if len(texts) < len(raw) else "no caption"
            return Skip(entry.file, reason, entry.cause or entry.where)
        return Record(entry.file, captions, self.tree.image(entry.file))

    def _entries(self, walking: bool) -> Iterator[tuple[str, _Entry | Skip]]:
        """(the list's label, a row with the file that it names, or what is wrong with it).

        walking: the list was found good before; a link that has changed since costs its entry.
        """
        for each in self._lists:
            for row in each.read():
                yield each.label, self._entry(row, each, walking)

    def _entry(self, row: Row, of: RowList, walking: bool) -> _Entry | Skip:
        names = [name if leaves_folder(name) else of.folder + name for name in map(plain, row.names)]
        if row.flaw is not None:
            reason, cause = row.flaw
            key = names[0] if names and not leaves_folder(names[0]) else f"{self._short(of)} {row.where}"
            return Skip(key.encode("utf-8", "replace").decode(), reason, cause)
        base = self.tree.path.name
        file, there = "", False
        for name in [*names, *(name.removeprefix(f"{base}/") for name in names if name.startswith(f"{base}/"))]:
            refused = leaves_folder(name)
            if refused:
                said = f"{row.where} names {shown(name)}: {refused}"
                raise UserError(f"{of.label}: {said}; the whole file is refused")
            try:
                status, found = self.tree.find(name)
            except TwoFit as two:
                return Skip(name, "name fits two files", f"{row.where}: {two}")
            if status == "outside" and walking:
                return Skip(name, "file name leaves the folder", f"{row.where}: a link leads out of it")
            if status == "outside":
                raise UserError(
                    f"{of.label}: {row.where} names {shown(name)}, a link that leads out of the folder; refused "
                    "(--follow-links takes the linked files too)"
                )
            if status == "there":
                file, there = found, True
                break
            file = file or name
        return _Entry(row.where, file, there, list(row.captions), row.cause)

    def _short(self, of: RowList) -> str:
        return of.label.replace("\\", "/").rpartition("/")[2]
