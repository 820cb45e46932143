"""The commands about data: import, fetch, list, show, check and export recordings. None of them loads torch."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sessionwise.errors import UsageError, raise_all
from sessionwise.terminal import print_table, say, shown

if TYPE_CHECKING:
    from sessionwise.data.importing import ImportSummary
    from sessionwise.data.info import SessionInfo
    from sessionwise.data.splits import SplitKind
    from sessionwise.data.store import SessionStore

_LONG = ("good_units", "files")  # of a session's source: a line a unit or file

data_app = typer.Typer(help="Prepared stores of recordings.", no_args_is_help=True, rich_markup_mode=None)

StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a prepared store.")]
ToStore = Annotated[Path, typer.Option("--to", metavar="STORE", help="Store to add to; made when it is not there.")]
BinMs = Annotated[float | None, typer.Option("--bin-ms", help="Bin size in milliseconds; joins bins of counts.")]
Window = Annotated[
    str | None,
    typer.Option("--window", metavar="START,STOP", help="Seconds around the event; crops counts: -0.5,2.5"),
]
Units = Annotated[str, typer.Option("--units", help="all | good: those that pass the file's own quality metric.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad recordings out, and list them.")]
TrialMask = Annotated[
    bool | None,
    typer.Option("--trial-mask/--no-trial-mask", help="Drop the trials that IBL's filter drops. [off]"),
]


@data_app.command(
    "import",
    epilog="Example: sessionwise data import recordings/*.npz --to my-store --bin-ms 20; for spike times: "
    "sessionwise data import sub-01.nwb --to my-store --align stim_on_time --window -0.5,2.5",
)
def data_import(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Files, or folders that hold recordings.")],
    to: ToStore,
    format: Annotated[
        str | None, typer.Option("--format", help="See: sessionwise data formats. [guessed from content]")
    ] = None,
    bin_ms: BinMs = None,
    window: Window = None,
    align: Annotated[
        str | None,
        typer.Option("--align", metavar="EVENT", help="Event that trials are aligned to; none: windows at a stride."),
    ] = None,
    stride: Annotated[
        float | None, typer.Option("--stride", help="Seconds between windows of --align none. [window length]")
    ] = None,
    units: Units = "all",
    trial_mask: TrialMask = None,
    start: Annotated[
        float | None,
        typer.Option("--start", help="Where the window of binned counts begins (s), if the file is silent."),
    ] = None,
    sorter: Annotated[str | None, typer.Option("--sorter", help="ALF: spike sorter, where there are several.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="ALF: revision, where there are several.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="Session id, for one recording. [the file's own]")] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Check recordings and add them to a prepared store: all of them, or none.

    Spike times are binned around an event of each trial, counts are cropped and joined. Defaults are said.
    """
    from sessionwise.data.importing import import_to

    _stop_like_ctrl_c()
    _check_units(units)
    asked = {
        "bin_ms": bin_ms,
        "window_s": None if window is None else _window(window),
        "align": align,
        "stride_s": stride,
        "units": units,
        "trial_mask": trial_mask,
        "sorter": sorter,
        "revision": revision,
        "session_id": id,
        "start_s": start,
    }
    _print_summary(to, *import_to(to, files, say, format=format, skip_bad=skip_bad, **asked))


@data_app.command("formats", epilog="Example: sessionwise data formats")
def data_formats() -> None:
    """List the formats that can be imported, those of other packages included."""
    from sessionwise.data.formats.registry import known_formats

    print_table(["format", "what"], [(name, format.summary) for name, format in known_formats().items()])


@data_app.command(
    "fetch", epilog="Example: sessionwise data fetch repeated-site --to my-store --cache my-one-cache --window -0.5,2.5"
)
def data_fetch(
    what: Annotated[str, typer.Argument(metavar="repeated-site", help="The set of recordings to fetch.")],
    to: ToStore,
    only: Annotated[
        str | None, typer.Option("--only", metavar="EID[,EID]", help="These sessions only. [the paper's 89]")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="DIR", help="Folder of downloads, an ONE cache. [ONE's own]")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Read the cache; download nothing.")] = False,
    bin_ms: BinMs = None,
    window: Window = None,
    units: Units = "all",
    trial_mask: Annotated[bool, typer.Option("--trial-mask/--no-trial-mask", help="IBL's trial filter.")] = True,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Spike sorting of this date or the last before. [the manifest's]")
    ] = None,
    sorter: Annotated[str | None, typer.Option("--sorter", help="Spike sorter, where there are several.")] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Download IBL's RepeatedSite sessions through ONE and add them to a store; what is there is not fetched again.

    One insertion a session, one spike-sorting revision, IBL's trial mask: as in the paper. Needs the extra ibl.
    """
    from sessionwise.data.fetching import fetch_repeated_site

    _stop_like_ctrl_c()
    if what != "repeated-site":
        raise UsageError("data fetch", f"{what!r} is unknown", "repeated-site")
    _check_units(units)
    asked = {
        "bin_ms": bin_ms,
        "window_s": None if window is None else _window(window),
        "units": units,
        "trial_mask": trial_mask,
        "revision": revision,
        "sorter": sorter,
    }
    eids = None if only is None else [eid.strip() for eid in only.split(",") if eid.strip()]
    store, summary = fetch_repeated_site(
        to, only=eids, cache=cache, offline=offline, skip_bad=skip_bad, say=say, **asked
    )
    _print_summary(to, store, summary)


@data_app.command("export", epilog="Example: sessionwise data export my-store --format hdf5 --to my-folder")
def data_export(
    store: StorePath,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder for the files; made when it is not there.")],
    format: Annotated[str, typer.Option("--format", help="hdf5 (torch_brain) | npz")] = "hdf5",
    only: Annotated[str | None, typer.Option("--only", metavar="ID[,ID]", help="These sessions only. [all]")] = None,
) -> None:
    """Write sessions as files that other tools read, and that import again with the same counts."""
    from sessionwise.data.exporting import export_store
    from sessionwise.data.store import open_store

    sessions = open_store(store)
    ids = None if only is None else [name.strip() for name in only.split(",") if name.strip()]
    files = export_store(sessions, to, format=format, ids=ids, say=say)
    print(f"{len(files)} files in {shown(to)}")


@data_app.command("list", epilog="Example: sessionwise data list my-store")
def data_list(
    store: StorePath,
    where: Annotated[
        str | None, typer.Option("--where", help="Only sessions that this keeps: 'n_trials >= 100'.")
    ] = None,
) -> None:
    """List the sessions of a store."""
    from sessionwise.data.store import open_store

    sessions = open_store(store)
    sessions = sessions if where is None else sessions.filter(where)
    columns = ["session", "subject", "lab", "date", "trials", "bins", "units", "bin ms", "window s", "Hz"]
    rows = [_row(sessions.info(session_id)) for session_id in sessions]
    print_table(columns, rows, right=["trials", "bins", "units", "bin ms", "Hz"])


@data_app.command("show", epilog="Example: sessionwise data show my-store 11_Hench_2017-06-18")
def data_show(
    store: StorePath,
    session: Annotated[str, typer.Argument(metavar="ID", help="Session id, as the list shows it.")],
    split_seed: Annotated[int, typer.Option("--split-seed", help="Seed of the 8:1:1 split.")] = 0,
    split: Annotated[str, typer.Option("--split", help="random | blocked | recorded")] = "random",
    picture: Annotated[bool, typer.Option("--picture/--no-picture", help="Draw it, as ID.png here.")] = True,
) -> None:
    """Show what is known about one session, and draw it into the current folder: raster, rates, areas, split.

    Only training and validation trials are drawn.
    """
    from sessionwise.data.splits import split_of
    from sessionwise.data.store import open_store

    sessions = open_store(store)
    info = sessions.info(session)
    parts = split_of(info, split_seed, _split_kind(split))
    print_table(["what", "value"], _facts(info, parts))
    if picture:
        from sessionwise.analysis.recording_figures import write_session_picture

        path = write_session_picture(sessions.session(session), parts, Path(f"{info.folder.name}.png"))
        print(f"picture: {shown(path)}")


@data_app.command("check", epilog="Example: sessionwise data check my-store")
def data_check(store: StorePath) -> None:
    """Hash every file of a store again and compare with what was recorded."""
    from sessionwise.data.store import check_store

    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        say(line)

    problems = check_store(store, progress)
    raise_all(problems)
    print(f"{len(lines)} sessions checked: all files are as recorded")


def _print_summary(to: Path, store: SessionStore, summary: ImportSummary) -> None:
    for _, problem in summary.skipped:
        say(f"left out: {problem}")
    print(
        f"{len(summary.added)} added, {len(summary.unchanged)} already there, {len(summary.skipped)} left out; "
        f"{shown(to)} now holds {len(store)} sessions"
    )


def _stop_like_ctrl_c() -> None:
    """SIGTERM undoes what is half done, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _check_units(units: str) -> None:
    from sessionwise.data.recording import UNIT_CHOICES

    if units not in UNIT_CHOICES:
        raise UsageError("--units", f"{units!r}", " | ".join(UNIT_CHOICES))


def _split_kind(name: str) -> SplitKind:
    from sessionwise.data.splits import SPLITS

    for kind in SPLITS:
        if kind == name:
            return kind
    raise UsageError("--split", f"{name!r}", " | ".join(SPLITS))


def _window(text: str) -> tuple[float, float]:
    try:
        start, stop = (float(part) for part in text.split(","))
    except ValueError as error:
        remedy = "For example: --window -0.2,0.8"
        raise UsageError("--window", f"{text!r}", "START,STOP in seconds", remedy) from error
    return start, stop


def _row(info: SessionInfo) -> list[object]:
    window = f"{info.window_s[0]:g}..{info.window_s[1]:g}"
    shape = [info.n_trials, info.n_bins, info.n_units]
    return [
        info.id,
        info.subject,
        info.lab,
        info.date,
        *shape,
        f"{info.bin_s * 1e3:g}",
        window,
        f"{info.mean_rate_hz:.2f}",
    ]


def _facts(info: SessionInfo, split: Any) -> list[tuple[str, object]]:
    from collections import Counter

    from sessionwise.data.session import window_text
    from sessionwise.data.splits import overlap_of

    areas = Counter(info.areas or ()).most_common()
    shared = overlap_of(info, split)
    return [
        ("session", info.id),
        ("subject, lab, date", f"{info.subject or '-'}, {info.lab or '-'}, {info.date or '-'}"),
        ("shape", f"{info.n_trials} trials x {info.n_bins} bins x {info.n_units} units"),
        ("time", f"{window_text(info.bin_s, info.window_s)}; 0 is {info.align or 'not named'}"),
        ("spikes", f"{info.spikes} ({info.mean_rate_hz:.2f} Hz a unit)"),
        ("split", _split_text(split)),
        (
            "test bins also in training windows",
            "unknown (no trial times)" if shared is None else f"{100 * shared:.1f} %",
        ),
        ("good units", None if info.n_units_good is None else f"{info.n_units_good} by the source's own metric"),
        ("areas", ", ".join(f"{area} {n}" for area, n in areas) or None),
        ("trial columns", ", ".join(info.columns) or None),
        *((f"source {key}", _plain(value)) for key, value in info.source.items() if value and key not in _LONG),
        *(("note", note) for note in info.notes),
        ("counts SHA-256", info.counts_sha256),
        ("folder", info.folder),
    ]


def _split_text(split: Any) -> str:
    parts = f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test trials"
    return f"{split.kind}: {parts}" + (f", {len(split.purged)} left out between blocks" if len(split.purged) else "")


def _plain(value: object) -> object:
    return ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else value
