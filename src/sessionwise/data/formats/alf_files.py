"""Files of an IBL session folder: what is there, which revision counts, and that nothing leads outside the folder.

A dataset is ``object.attribute.extension``, perhaps with a namespace in front (``_ibl_trials.choice.npy``), in a folder
(a collection) or in a ``#revision#`` folder below it. Revisions sort as text; '' stands for the files outside of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sessionwise.errors import DataError
from sessionwise.io.arrays import kind_of_file, open_regular, unchanged_source

UNREVISED = "none"  # --revision none: the files outside of all #revision# folders
ITSELF = "."  # --sorter .: spikes that lie in the probe's own folder, as older sessions have them
_REVISION = re.compile(r"#(.+)#")
_NAME = re.compile(  # [_namespace_]object.attribute[.uuid].extension
    r"(?:_[A-Za-z0-9]+_)?(?P<object>[A-Za-z]\w*)\.(?P<attribute>[A-Za-z]\w*)"
    r"(?:\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})?\.(?P<extension>npy|pqt|csv)"
)


@dataclass(frozen=True)
class AlfFile:
    """One dataset file: ``spikes``, ``times``, ``npy``, and the revision whose folder it is in."""

    path: Path
    object: str
    attribute: str
    extension: str
    revision: str

    @property
    def name(self) -> str:
        """As the field speaks of it: ``spikes.times``."""
        return f"{self.object}.{self.attribute}"


@dataclass
class SessionFolder:
    """A session folder that is being read: each file that is used is hashed, and hashed again when reading ends.

    Attributes
    ----------
    root: the session folder; alf: its folder ``alf``. used: path inside the session -> SHA-256. notes: for the user.
    """

    root: Path
    reading: ExitStack
    used: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def alf(self) -> Path:
        return self.root / "alf"

    def use(self, file: AlfFile) -> str:
        """The path of a file that is about to be read: regular, inside the session, hashed."""
        refuse_outside(self.root, file.path)
        name = file.path.relative_to(self.root).as_posix()
        if name not in self.used:
            self.used[name] = self.reading.enter_context(unchanged_source(file.path))
        return str(file.path)


def session_root(path: Path) -> Path:
    """The session folder of a path that is one, or that is its folder ``alf``."""
    return path.parent if path.name == "alf" and not (path / "alf").is_dir() else path


def refuse_outside(root: Path, path: Path) -> None:
    """DataError for a link that leads out of the session folder: what lies there is nobody's recording."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        open_regular(path).close()  # says what is wrong with it
        raise
    if not real.is_relative_to(root.resolve()):
        found = "is a link that leads out of the session folder"
        raise DataError(str(path), found, "a file inside it", "Copy the file to its place")


def files_of(folder: Path) -> list[AlfFile]:
    """The datasets of a collection, those in its ``#revision#`` folders included, sorted by path."""
    found = _here(folder, "")
    for child in _children(folder):
        if (match := _REVISION.fullmatch(child.name)) and child.is_dir():
            found += _here(child, match[1])
    return found


def files_listed(paths: Iterable[str], collection: str) -> list[AlfFile]:
    """``files_of`` a collection, from a list of paths below the session instead of a disk."""
    found = []
    for path in map(Path, paths):
        revised = _REVISION.fullmatch(path.parent.name)
        own, match = (path.parent.parent if revised else path.parent), _NAME.fullmatch(path.name)
        if match and own.as_posix() == collection:
            found.append(_file(path, match, revised[1] if revised else ""))
    return sorted(found, key=lambda file: file.path)


def folders_of(folder: Path) -> list[Path]:
    """Plain folders below a folder: no revisions, nothing hidden."""
    return [p for p in _children(folder) if p.is_dir() and not p.name.startswith((".", "#"))]


def latest(files: Iterable[AlfFile], upto: str | None) -> AlfFile | None:
    """The file of the latest revision that is not later than ``upto`` (None: of all); pqt before npy before csv."""
    fits = [file for file in files if upto is None or file.revision <= upto]
    return max(fits, key=lambda file: (file.revision, ("csv", "npy", "pqt").index(file.extension)), default=None)


def shown(revision: str) -> str:
    """A revision for people."""
    return revision or "unrevised"


def require_text(path: str) -> None:
    """DataError for a table that is a web page, a pointer or another kind of file, and not text."""
    kind = kind_of_file(path)
    if not kind.startswith("of unknown kind"):
        raise DataError(path, f"is {kind}", "a CSV file", "Download the file again")


def _here(folder: Path, revision: str) -> list[AlfFile]:
    matches = [(path, _NAME.fullmatch(path.name)) for path in _children(folder)]
    return [_file(path, match, revision) for path, match in matches if match]


def _file(path: Path, match: re.Match[str], revision: str) -> AlfFile:
    return AlfFile(path, match["object"], match["attribute"], match["extension"], revision)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        found = f"cannot be read ({error.strerror or error})"
        raise DataError(str(folder), found, "a readable folder", "Check its permissions") from error
