"""One study a folder (D50, D51): what a folder holds is told from what is asked, and foreign files are left alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sessionwise.analysis.results import STUDY_FILE
from sessionwise.errors import Problems, SessionwiseError, UsageError, raise_all
from sessionwise.io.files import TMP_PREFIX, canonical_json, read_sealed

_REMEDY = "Name another folder with --to"


def folder_problems(folder: Path, asked: Mapping[str, Any], ours: Collection[str]) -> list[SessionwiseError]:
    """Why a study with the identity ``asked`` cannot be in a folder; ``ours``: names of a study's files. Reads only."""
    problems: list[SessionwiseError] = []
    try:
        if (folder / STUDY_FILE).exists():
            refuse_another(folder, read_sealed(folder / STUDY_FILE), asked)
    except SessionwiseError as problem:
        problems.append(problem)
    try:
        refuse_foreign(folder, ours)
    except UsageError as problem:
        problems.append(problem)
    return problems


@contextmanager
def beside(problems: Sequence[SessionwiseError]) -> Iterator[None]:
    """Raise these problems after the block, in one answer with those that the block raises."""
    try:
        yield
    except SessionwiseError as error:
        raise_all([*problems, *(error.problems if isinstance(error, Problems) else [error])])
    raise_all(problems)


def refuse_another(folder: Path, known: Any, asked: Mapping[str, Any]) -> None:
    """UsageError when ``known``, the study.json of a folder, is not of the study asked for; names what differs first.

    asked: the identity of the study, compared with ``known["identity"]``.
    """
    old = known.get("identity") if isinstance(known, Mapping) else None
    if not isinstance(old, Mapping):
        raise UsageError(str(folder), "holds a study of another version", "the same version", _REMEDY)
    if canonical_json(old) != canonical_json(asked):
        where, was, now = first_difference(old, asked)
        found = f"holds study {known.get('name')!r} with {where} = {was!s:.80}"
        remedy = f"Set {where} in the recipe: 'auto' depends on the machine" if "precision" in where else _REMEDY
        raise UsageError(str(folder), found, f"{where} = {now!s:.80} as the recipe asks", remedy)


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """The dotted name of the first key that differs, and both values (None: it is not there)."""
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if a != b:
            if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
                return name, a, b
            inner, was, now = first_difference(a, b)
            return (inner if name in ("recipe", "settings") else f"{name}.{inner}"), was, now
    return "the study", old, new


def refuse_foreign(folder: Path, ours: Collection[str]) -> None:
    """UsageError for a folder with other things in it than ``ours``, which is left as it is."""
    if folder.is_file():
        raise UsageError(str(folder), "is a file", "a folder", _REMEDY)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    foreign = sorted(name for name in names if name not in ours and not name.startswith(TMP_PREFIX))
    if foreign:
        raise UsageError(str(folder), f"holds {foreign[0]!r}, which is no study's", "an empty or new folder")


def refuse_other_content(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], hashes: Sequence[str] = ("trainval_hash",)
) -> None:
    """UsageError when a study was made with other sessions, or other content of them: ids -> facts with hashes."""
    changed = sorted(
        i
        for i in {*old, *new}
        if [(old.get(i) or {}).get(name) for name in hashes] != [(new.get(i) or {}).get(name) for name in hashes]
    )
    if changed:
        found = f"was made with other content of {', '.join(changed[:3])}{' ...' if changed[3:] else ''}"
        raise UsageError(str(folder), found, "the same recordings", _REMEDY)


def refuse_other_metadata(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], own: Collection[str]) -> None:
    """UsageError when the columns of a metadata table (all facts but ``own``) are other ones than the study began with.

    Ids -> facts; figures and screens depend on these columns, no run does.
    """
    for i in sorted({*old, *new}):
        was, now = ({k: v for k, v in (facts.get(i) or {}).items() if k not in own} for facts in (old, new))
        if was != now:
            name = next(k for k in sorted({*was, *now}) if (k in was, was.get(k)) != (k in now, now.get(k)))
            found = f"was made with {name} = {was.get(name)!s:.80} of session {i}"
            needed = f"the same metadata, not {now.get(name)!s:.80}"
            raise UsageError(str(folder), found, needed, _REMEDY)
