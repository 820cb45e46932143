"""The formats that recordings can have: which there are, which one a file has, and reading it.

A format is a ``Format``: a name, a line for people, a test of a path, and one function that reads it. Those of
sessionwise stand in this folder; other packages add theirs by an entry point of the group ``sessionwise.formats``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from sessionwise.data.recording import Asked, Recording
from sessionwise.data.session import Session, crop, rebin_session
from sessionwise.errors import DataError, EnvironmentProblem, SessionwiseError, UsageError
from sessionwise.io.arrays import kind_of_file

GROUP = "sessionwise.formats"
MAX_DEPTH = 6  # folders below the one that is named: lab/Subjects/subject/date/number
_LATEST_START_S = 1e6
_BY_SUFFIX = {".h5": "hdf5", ".hdf5": "hdf5", ".arrow": "arrow", ".parquet": "arrow"}  # who reports a spoiled file
_OF_ONE_FORMAT = ("sorter", "revision")
_OWN = ("npz", "alf", "nwb", "hdf5", "arrow", "lfads")  # modules of this folder, asked in this order


@dataclass(frozen=True)
class Format:
    """One file format.

    name: as ``--format`` names it. summary: one line for people. claims: whether a path is one recording of this
    format, by its content, never raising. read: the recording at a path, as spike times or as binned counts; raises
    DataError. takes: fields of ``Asked`` that mean something to this format only; others refuse them.
    """

    name: str
    summary: str
    claims: Callable[[Path], bool]
    read: Callable[[Path, Asked], Session | Recording]
    takes: tuple[str, ...] = ()


@cache
def known_formats() -> Mapping[str, Format]:
    """Name -> format: sessionwise's own first, then those of other packages by entry point."""
    formats = {name: _own(name) for name in _OWN}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        found = _foreign(point.name, point.load)
        if found.name in formats:
            raise EnvironmentProblem(
                f"entry point {point.value}", f"format {found.name!r} is there already", "another name", "Rename it"
            )
        formats[found.name] = _fenced(found, point.value)
    return formats


def named_format(name: str) -> Format:
    """The format of a name; UsageError, with the nearest name, for one that is unknown."""
    formats = known_formats()
    if name not in formats:
        near = difflib.get_close_matches(name, formats, 1)
        remedy = f"Did you mean {near[0]}?" if near else ""
        raise UsageError("--format", f"{name!r} is unknown", " | ".join(formats), remedy)
    return formats[name]


def guess_format(path: Path) -> Format | None:
    """The one format that claims a path, or None; UsageError when several do."""
    claiming = [format for format in known_formats().values() if format.claims(path)]
    if len(claiming) > 1:
        names = " and ".join(format.name for format in claiming)
        raise UsageError(str(path), f"could be {names}", "one format", f"Name it: --format {claiming[0].name}")
    return claiming[0] if claiming else None


def find_recordings(
    path: Path, format: Format | None = None, say: Callable[[str], None] = lambda text: None
) -> list[tuple[Path, Format]]:
    """The recordings at a path: itself, or those in the folder below it, sorted by path.

    Raises DataError when there is none; a file says what it is instead.
    """
    path = Path(path)
    if format is not None and (not path.is_dir() or format.claims(path)):
        return [(path, format)]
    own = guess_format(path) if format is None else None
    if own is not None:
        return [(path, own)]
    if path.is_dir():
        say(f"looking for recordings below {path}")
        others: list[Path] = []
        found = list(_below(path, format, MAX_DEPTH, others))
        if others and found:
            say(f"{len(others)} other {'file was' if len(others) == 1 else 'files were'} passed over: {_first(others)}")
        if found:
            return found
        kinds = format.name if format else ", ".join(known_formats())
        raise DataError(str(path), "holds no recording", f"files or folders of the formats {kinds}", "Name the files")
    raise DataError(str(path), f"is {kind_of_file(path)}", " | ".join(known_formats()), "Name the format: --format")


def read_recording(path: Path, format: Format, asked: Asked) -> Session | Recording:
    """Read one path; counts that are binned already are cropped and rebinned as asked."""
    if asked.start_s is not None and not abs(asked.start_s) < _LATEST_START_S:
        raise UsageError("--start", f"{asked.start_s:g}", "seconds", "For example: --start -0.5")
    _refuse_options_of_others(path, format, asked)
    found = format.read(Path(path), asked)
    if isinstance(found, Recording):
        return found
    _refuse_spike_options(path, format, asked)
    if asked.window_s is not None:
        found = crop(found, *asked.window_s)
    return found if asked.bin_ms is None else rebin_session(found, asked.bin_ms / 1000)


def _own(name: str) -> Format:
    format: Format = import_module(f"sessionwise.data.formats.{name}").FORMAT
    return format


def _foreign(name: str, load: Callable[[], object]) -> Format:
    try:
        found = load()
    except Exception as error:  # whatever another package raises, ours goes on to say whose fault it is
        raise EnvironmentProblem(
            f"entry point {name!r} of {GROUP}", f"cannot be loaded ({error!r:.100})", "a Format", "Update that package"
        ) from error
    if not isinstance(found, Format):
        raise EnvironmentProblem(
            f"entry point {name!r} of {GROUP}",
            f"is a {type(found).__name__}",
            "a Format",
            "See docs/adding-a-format.md",
        )
    return found


def _fenced(format: Format, value: str) -> Format:
    """A format of another package whose failures are its own: no claim, or one line that names the package."""

    def claims(path: Path) -> bool:
        try:
            return bool(format.claims(path))
        except Exception:  # a format that cannot look at a file does not claim it
            return False

    def read(path: Path, asked: Asked) -> Session | Recording:
        try:
            found = format.read(path, asked)
        except SessionwiseError:
            raise
        except Exception as error:
            what = f"the reader {value} failed ({error!r:.120})"
            raise DataError(str(path), what, "a file that it can read", "Tell the makers of that package") from error
        if not isinstance(found, (Session, Recording)):
            what = f"the reader {value} returned a {type(found).__name__}"
            raise DataError(str(path), what, "a Recording or a Session", "Tell the makers of that package")
        return found

    return replace(format, claims=claims, read=read)


def _below(folder: Path, format: Format | None, depth: int, others: list[Path]) -> Iterator[tuple[Path, Format]]:
    """Recordings below a folder; other files are collected. A spoiled one is yielded, so that reading it says so."""
    try:
        children = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise DataError(str(folder), f"cannot be read ({error.strerror})", "a readable folder") from error
    for child in children:
        own = (format if format.claims(child) else None) if format else guess_format(child) or _spoiled(child)
        if own is not None:
            yield child, own
        elif child.is_dir() and not child.is_symlink() and depth:
            yield from _below(child, format, depth - 1, others)
        elif not child.is_dir():
            others.append(child)


def _spoiled(path: Path) -> Format | None:
    """The format that a file would have by its name, if it is empty, a web page or a pointer to the file instead."""
    name = _BY_SUFFIX.get(path.suffix.lower())
    if name is None or path.is_dir():
        return None
    try:
        kind = kind_of_file(path)
    except DataError:  # empty, a broken link, no regular file
        return known_formats()[name]
    return known_formats()[name] if "HTML" in kind or "LFS" in kind else None


def _first(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")


def _refuse_options_of_others(path: Path, format: Format, asked: Asked) -> None:
    for name in _OF_ONE_FORMAT:
        if getattr(asked, name) is not None and name not in format.takes:
            known = " | ".join(other.name for other in known_formats().values() if name in other.takes)
            raise UsageError(str(path), f"--{name} with the format {format.name}", known, "Leave it out")


def _refuse_spike_options(path: Path, format: Format, asked: Asked) -> None:
    given = [name for name in ("align", "stride_s", "trial_mask") if getattr(asked, name) is not None]
    given += ["units"] if asked.units != "all" else []
    if given:
        options = ", ".join("--" + name.removesuffix("_s").replace("_", "-") for name in given)
        raise UsageError(str(path), f"{options} with counts that are binned already ({format.name})", "spike times")
