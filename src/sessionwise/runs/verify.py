"""Is a study as it was written? Every file with a recorded hash is hashed again; nothing is ever written.

Missing, extra and corrupt are problems. The rest are notes: what dead processes left (orphaned), what a command that
did not finish was writing (unfinished), runs that were set aside, and names that are not ours (foreign).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sessionwise.errors import DataError, IntegrityError, SessionwiseError
from sessionwise.io.files import MANIFEST, is_temporary_name, read_json, sealed_manifest, sha256_file, verify_folder
from sessionwise.runs import survey
from sessionwise.runs.checkpoints import generations
from sessionwise.runs.lease import ALIVE
from sessionwise.runs.spec import is_key
from sessionwise.runs.store import RunStore

PROBLEMS = ("missing", "extra", "corrupt")
_SAY_EVERY_S = 2.0
_UNSEALED = {"timing.json", "demo.json", MANIFEST}  # not the same whenever they are made anew, or of no result
_FOLDERS = {survey.RUNS, "rankings", "report", "store", "bench-rankers", "recommendations", survey.LEDGER}
_SEALED_NAMES = ("ranking.json", "report.json", "results.json", "tuning.json", "comparison.json")
_OTHER_NAMES = ("study.json", "results.csv", "results.safetensors", "transfer.csv", "tuning.csv", "tuning.md")
_AGAIN = "Run the command that made it again"


@dataclass(frozen=True)
class Finding:
    """What is not as it should be: a kind, the path inside the study, and what was found."""

    kind: str
    path: str
    text: str


@dataclass
class Verification:
    """What was checked (counts by name, files and bytes among them) and what was found."""

    study: Path
    checked: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def problems(self) -> list[Finding]:
        """Findings that concern results."""
        return [finding for finding in self.findings if finding.kind in PROBLEMS]

    @property
    def notes(self) -> list[Finding]:
        """Findings that no result depends on."""
        return [finding for finding in self.findings if finding.kind not in PROBLEMS]

    def errors(self) -> list[SessionwiseError]:
        """The problems as typed errors, exit code 5."""
        return [_as_error(self.study, finding) for finding in self.problems]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        lists = {"problems": self.problems, "notes": self.notes}
        listed = {name: [vars(finding) for finding in found] for name, found in lists.items()}
        return {"study": str(self.study), "whole": not self.problems, "checked": dict(self.checked), **listed}


def verify_study(study: Path, say: Callable[[str], None] = lambda text: None) -> Verification:
    """Check everything in the folder of a study; ``say`` gets a line now and then. UsageError when it is no study."""
    study = Path(study)
    survey.require_study(study)
    found = Verification(study)
    look = _Look(found, say)
    look.runs()
    look.sealed(study, inside=False)
    for ranking in sorted([*study.glob("rankings/*/*/"), *study.glob("recommendations/*/*/")]):
        look.sealed(ranking)
    for name in ("report", "bench-rankers"):
        if (study / name).is_dir():
            look.sealed(study / name)
    look.records()
    look.leftovers()
    look.foreign()
    return found


class _Look:
    """One walk through a study."""

    def __init__(self, found: Verification, say: Callable[[str], None]) -> None:
        self.found, self.study, self.say = found, found.study, say
        self.store = RunStore(self.study / survey.RUNS)
        self._next = time.monotonic() + _SAY_EVERY_S

    def runs(self) -> None:
        """Committed runs and the checkpoints of those under way."""
        keys = self.store.keys()
        for key in keys:
            self._run(key)
            self._count("runs", self.store.root / key, len(keys))
        known = set(keys)
        for key in keys:
            self._inputs(key, known)
        for work in survey.entries(self.store.root):
            if is_key(work.name.removesuffix(".work")) and work.name.endswith(".work") and work.is_dir():
                for generation in generations(work):
                    self._checkpoint(generation)

    def sealed(self, folder: Path, inside: bool = True) -> None:
        """Files that a manifest lists. inside: the folder is all ours, so that others in it are foreign."""
        manifest = sealed_manifest(folder)
        if manifest is None:
            if (folder / MANIFEST).exists():
                self._add("corrupt", folder / MANIFEST, f"is no manifest. {_AGAIN}")
            elif any((folder / name).exists() for name in _SEALED_NAMES):
                self._add("unfinished", folder, f"has no {MANIFEST}: not finished, or of an older version. {_AGAIN}")
            return
        wrong = list(_differences(folder, manifest["files"]))
        if wrong and sealed_manifest(folder) != manifest:  # a command is writing it just now
            return self.sealed(folder, inside)
        for kind, path, text in wrong:
            if manifest["state"] == "writing":
                self._add("unfinished", path, f"{text}: a command was writing here. {_AGAIN}")
            else:
                self._add(kind, path, text)
        for name in manifest["files"]:
            self._count("results", folder / name)
        if inside:
            self._strangers(folder, {*manifest["files"], *_UNSEALED})
        return None

    def records(self) -> None:
        """Failures, and the ledger of openings of test trials: small files without a hash, which must be readable."""
        for place in (self.store.root / survey.FAILURES, self.study / survey.LEDGER):
            for path in survey.entries(place):
                if path.suffix == ".json" and is_key(path.stem):
                    self._record(path)

    def leftovers(self) -> None:
        """What dead processes left; what living ones are at is no finding."""
        for leftover in survey.leftovers(self.study):
            if leftover.kind == "set aside":
                text = "did not verify and was set aside; sessionwise gc --corrupt removes it"
                self._add("set aside", leftover.path, text)
            elif leftover.owner != ALIVE:
                whose = "a dead process" if leftover.owner == "dead" else "a process of another host, boot or container"
                self._add("orphaned", leftover.path, f"{leftover.kind} of {whose}")

    def foreign(self) -> None:
        """Names that are not ours, in the study's folder and among its runs."""
        listed = {*(sealed_manifest(self.study) or {"files": ()})["files"], *_UNSEALED, *_FOLDERS}
        known = {*_SEALED_NAMES, *_OTHER_NAMES}
        for path in survey.entries(self.study):
            if path.name not in listed | known and not is_temporary_name(path.name):
                self._add("foreign", path, "is none of a study")
        for path in survey.entries(self.store.root):
            if not survey.is_our_run_name(path.name):
                self._add("foreign", path, "is none of the runs")

    def _strangers(self, folder: Path, listed: set[str]) -> None:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and name.as_posix() not in listed and not any(map(is_temporary_name, name.parts)):
                self._add("foreign", path, "is none of its files")

    def _run(self, key: str) -> None:
        path = self.store.root / key
        problem = self.store.problem(key)
        if problem is None or not path.exists():  # another command may set it aside just now
            return
        details = list(_in_committed(path))
        for kind, place, text in details or [("corrupt", path, problem.found)]:
            self._add(kind, place, f"{text}; the run is computed again when it is needed")

    def _inputs(self, key: str, known: set[str]) -> None:
        try:
            needed = dict(read_json(self.store.root / key / "spec.json")["inputs"])
        except (DataError, KeyError, TypeError, ValueError):
            return
        for role, other in needed.items():
            if other not in known and not (self.store.root / str(other)).is_dir():
                self._add("missing", self.store.root / str(other), f"run that {key[:12]} was made from ({role})")

    def _checkpoint(self, generation: Path) -> None:
        try:
            verify_folder(generation)
        except (IntegrityError, KeyError, TypeError, AttributeError, OSError) as problem:
            if not generation.exists():  # superseded meanwhile
                return
            details = list(_in_committed(generation)) or [("corrupt", generation, str(problem))]
            for kind, place, text in details:
                self._add(kind, place, f"{text}; the checkpoint before it is used")
        self._count("checkpoints", generation)

    def _record(self, path: Path) -> None:
        try:
            found = read_json(path)
            if found["key"] != path.stem:
                self._add("corrupt", path, f"is the record of {found['key']!s:.12}")
        except (DataError, KeyError, TypeError) as problem:
            if path.exists():
                self._add("corrupt", path, f"is no record ({problem})")
        self._count("records", path)

    def _add(self, kind: str, path: Path, text: str) -> None:
        self.found.findings.append(Finding(kind, path.relative_to(self.study).as_posix(), text))

    def _count(self, what: str, path: Path, total: int | None = None) -> None:
        checked = self.found.checked
        checked[what] += 1
        checked["files"] += sum(1 for p in path.rglob("*") if p.is_file()) if path.is_dir() else 1
        checked["bytes"] += survey.bytes_in(path)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SAY_EVERY_S
            of = f" of {total}" if total else ""
            self.say(f"checked {checked[what]}{of} {what}, {checked['bytes'] / 1e6:.0f} MB")


def _in_committed(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """What is wrong with the files of a committed folder, one by one."""
    try:
        listed = {
            name: (entry["bytes"], entry["sha256"]) for name, entry in read_json(folder / MANIFEST)["files"].items()
        }
    except (DataError, KeyError, TypeError, AttributeError) as problem:
        gone = not (folder / MANIFEST).exists()
        yield ("missing" if gone else "corrupt"), folder / MANIFEST, "is missing" if gone else f"is damaged ({problem})"
        return
    yield from _differences(folder, {name: {"bytes": n, "sha256": sha} for name, (n, sha) in listed.items()})
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in {*listed, MANIFEST}:
            yield "extra", path, "is not in the manifest"


def _differences(folder: Path, listed: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Path, str]]:
    """Files that are not as they were written: (kind, path, what was found)."""
    for name, entry in sorted(listed.items()):
        path = folder / name
        try:
            found = sha256_file(path)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            yield (
                ("missing" if gone else "corrupt"),
                path,
                "is missing" if gone else f"cannot be read ({error.strerror})",
            )
            continue
        if found != entry["sha256"]:
            size = path.stat().st_size
            sizes = f", {size} bytes" + ("" if size == entry["bytes"] else f" instead of {entry['bytes']}")
            yield "corrupt", path, f"SHA-256 is {found[:12]}.. instead of {entry['sha256'][:12]}..{sizes}"


def _as_error(study: Path, finding: Finding) -> IntegrityError:
    return IntegrityError(str(study / finding.path), f"{finding.kind}: {finding.text}")
