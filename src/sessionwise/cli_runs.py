"""The commands about what lies in a study's folder: verify, status, gc. None of them loads torch or trains anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sessionwise.errors import raise_all
from sessionwise.terminal import MAX_PROBLEMS, print_table, say, shown

StudyFolder = Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of a study, or of rankings.")]
AsJson = Annotated[bool, typer.Option("--json", help="All of it as JSON on standard output.")]


def add_commands(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("verify", epilog="Example: sessionwise verify study")(verify)
    app.command("status", epilog="Example: sessionwise status study")(status)
    app.command("gc", epilog="Example: sessionwise gc study --dry-run")(gc)


def verify(study: StudyFolder, as_json: AsJson = False) -> None:
    """Hash every stored run, checkpoint, ranking, table and report again; nothing is written. Exit 5 if one is not
    as it was.

    The recordings are not in it: sessionwise data check STORE hashes those.
    """
    from sessionwise.runs.verify import verify_study

    found = verify_study(study, say)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    for note in found.notes[:MAX_PROBLEMS]:
        say(f"{note.kind}: {note.path}: {note.text}")
    if len(found.notes) > MAX_PROBLEMS:
        say(f"... and {len(found.notes) - MAX_PROBLEMS} more notes (all with --json)")
    raise_all(found.errors())
    if not as_json:
        n = found.checked
        print(
            f"{n['runs']} runs, {n['checkpoints']} checkpoints, {n['results']} files of results, {n['records']} records"
            f" ({_size(n['bytes'])}): all as they were written"
        )


def status(study: StudyFolder, as_json: AsJson = False) -> None:
    """Show how far a study is: runs by kind and state, who computes what, what failed, and what it takes on the disk.

    Runs that wait are those of the last command; what a whole study needs is told by its --dry-run.
    """
    from sessionwise.runs.status import DONE, INTERRUPTED, RUNNING, STATES, WAITING, study_status

    found = study_status(study)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    counts = found.counts()
    columns = [state for state in STATES if any(by_state[state] for by_state in counts.values())]
    rows = [[kind, *(by_state[state] or None for state in columns)] for kind, by_state in counts.items()]
    print_table(["runs", *columns], rows, right=columns)
    open_runs = [run for run in found.runs if run.state not in (DONE, WAITING)]
    for run in open_runs[:MAX_PROBLEMS]:
        details = [
            run.reason,
            run.holder,
            None if run.step is None else f"checkpoint at step {run.step}",
            None if run.step is not None or run.state not in (RUNNING, INTERRUPTED) else "no checkpoint yet",
        ]
        what = "; ".join(text for text in details if text)
        name = run.name or f"{run.kind or 'run'} {run.key[:12]}"
        print(shown(f"{run.state}: {name}: {what}; the same command again: it {run.next}"))
    if len(open_runs) > MAX_PROBLEMS:
        print(f"... and {len(open_runs) - MAX_PROBLEMS} more (all with --json)")
    for name in found.results:
        print(f"written: {shown(name)}")
    parts = ", ".join(f"{name} {_size(size)}" for name, size in sorted(found.bytes.items(), key=lambda i: -i[1])[:5])
    print(f"on disk: {_size(sum(found.bytes.values()))}" + (f" ({shown(parts)})" if parts else ""))


def gc(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of a study, or of a store of sessions.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    corrupt: Annotated[
        bool, typer.Option("--corrupt", help="Also runs set aside because they did not verify.")
    ] = False,
    elsewhere: Annotated[
        bool,
        typer.Option("--elsewhere", help="Also what other hosts or earlier boots left: when nothing else runs here."),
    ] = False,
) -> None:
    """Remove what dead processes left: temporary names, checkpoints of finished runs, leases. Never anything else."""
    from sessionwise.runs.garbage import collect_garbage

    freed = count = 0
    for one in collect_garbage(study, dry_run=dry_run, corrupt=corrupt, elsewhere=elsewhere):
        path = shown(one.path.relative_to(study))
        if one.kept:
            say(f"kept: {path} ({_size(one.bytes)}): {one.kept}")
            continue
        freed, count = freed + one.bytes, count + 1
        print(f"{'would remove' if dry_run else 'removed'} {one.kind} {path} ({_size(one.bytes)})")
    print(f"{count} leftovers, {_size(freed)}{' could be freed' if dry_run else ' freed'}")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
