"""Format ``nwb``: Neurodata Without Borders 2 files, read by pynwb: the tables ``units`` and ``trials``.

Columns of ``trials`` that are times near their trial become events, single values become columns of the trials; of
``units`` come ids, regions, the source's own quality and recorded intervals. pynwb works in a process of its own,
after the guards of ``io.hdf5`` and a check of the raw ragged spike times. Axes: N units, K trials, S spikes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sessionwise.data.formats.registry import Format
from sessionwise.data.recording import Asked, Recording
from sessionwise.errors import DataError, EnvironmentProblem, SessionwiseError
from sessionwise.io.arrays import unchanged_source
from sessionwise.io.hdf5 import guarded, is_hdf5, outline
from sessionwise.io.isolated import call_isolated

if TYPE_CHECKING:
    import h5py

# Names as they are compared: lower case, without underscores, without a plural s; the first that is there wins.
_ONSETS = (
    *("stimontime", "stimulusontime", "stimulusonsettime", "stimonsettime", "stimulusstarttime", "stimstarttime"),
    *("visualstimulustime", "visualstimulusonsettime", "stimulustime", "stimtime", "stimulusonset", "stimonset"),
    *("targetontime", "targetonsettime", "cueontime", "cueonsettime", "gocuetime", "gocueonsettime", "gocue"),
)
_GOOD = (  # column of units, value of a good one
    *(("ibl_quality_score", "1"), ("quality", "good"), ("unit_quality", "good"), ("is_good_unit", "true")),
    *(("is_good", "true"), ("default_qc", "true"), ("default_qc", "pass"), ("ks_label", "good"), ("kslabel", "good")),
    *(("label", "good"), ("group", "good")),
)
_AREAS = (
    *("location", "brain_area", "brain_region", "region", "area", "structure_acronym", "ecephys_structure_acronym"),
    *("beryl_location", "allen_location", "ccf_location", "anatomical_location", "cosmos_location"),
)
_NOWHERE = ("", "unknown", "none", "nan", "n/a")  # pynwb wants a location of every electrode
_PROBES = ("probe_name", "probe", "device_name")
_PEAK = ("peak_channel_id", "peak_channel", "max_electrode")  # the id of one electrode a unit
_NEAR_S = 10.0  # an event may lie this far outside its trial
_MAX_TEXT = 1000
_SPIKES, _INDEX = "units/spike_times", "units/spike_times_index"
_TRIALS = "intervals/trials"
_ELECTRODES = "general/extracellular_ephys/electrodes"
_CHECK = "Check how the file was made (nwbinspector FILE)"


def _claims(path: Path) -> bool:
    if path.is_dir():
        return _is_zarr(path)
    if not is_hdf5(path):
        return path.suffix == ".nwb" and path.is_file()
    try:
        found = outline(path)
    except SessionwiseError:  # a damaged file is ours to report when it was named as ours
        return path.suffix == ".nwb"
    names = ("nwb_version", "neurodata_type")
    return "nwb_version" in found.attrs or found.attrs.get(names[1]) == "NWBFile" or names[0] in found.names


def _read(path: Path, asked: Asked) -> Recording:
    if path.is_dir():
        found = "is a Zarr folder" if _is_zarr(path) else "is a folder"
        raise DataError(str(path), found, "an NWB file in HDF5", "Convert it with hdmf_zarr, or download the HDF5 file")
    with unchanged_source(path) as sha256:
        found = call_isolated("sessionwise.data.formats.nwb:read_tables", path)
    events, columns, notes = _events(found["trials"], list(found["notes"]))
    default = _default_align(events)
    if default and asked.align is None:
        notes.append(f"events to --align to: {', '.join(events)}")
    about = found["about"]
    return Recording(
        id=asked.session_id or about["session_id"] or about["identifier"] or path.stem,
        spike_s=found["spike_s"],
        spike_unit=found["spike_unit"],
        unit_ids=tuple(found["unit_ids"]),
        areas=None if found["areas"] is None else tuple(found["areas"]),
        good=found["good"],
        events=events,
        default_align=default,
        trial_ids=found["trial_ids"],
        trial_columns=columns,
        span_s=found["span_s"],
        subject=about["subject"],
        lab=about["lab"],
        date=about["date"],
        source={
            **{"format": "nwb", "file": path.name, "sha256": sha256},
            "about": {name: about[name] for name in ("identifier", "session_id", "nwb_version", "institution")},
        },
        notes=tuple(notes),
    )


FORMAT = Format("nwb", "Neurodata Without Borders 2: units and trials of an .nwb file", _claims, _read)


def read_tables(path: str) -> dict[str, Any]:
    """Spikes, units and trials of a file as pynwb gives them; runs in the child process.

    Raises
    ------
    DataError: no units, ragged indices that cannot be, a version or a file that pynwb cannot read.
    EnvironmentProblem: pynwb is missing.
    """
    with guarded(path, ()) as file:
        names = _names_to_read(path, file)
    _import_pynwb(path)
    with guarded(path, names) as file:
        for table in ("units", _TRIALS):
            if table in file:
                _check_rows(path, file, table)
        _check_spikes(path, file)
        version = file.attrs.get("nwb_version")
        with _opened(path, file) as nwb:
            return {**_tables(path, nwb), "about": _about(nwb, version)}


# ---- events --------------------------------------------------------------------------------------


def _events(
    trials: Mapping[str, np.ndarray], notes: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """Columns that are times of events, columns that are values; both of K trials."""
    events, columns, relative = {}, {}, []
    for name, values in trials.items():
        if not _named_as_time(name) or values.dtype.kind != "f":
            columns[name] = values
        elif name == "start_time" or _lies_near(values, trials):
            events[name] = values.astype(np.float64)
        else:
            columns[name] = values
            relative.append(name)
    if relative:
        notes.append(f"no events, as these times lie elsewhere than their trials: {', '.join(relative)}")
    return events, columns, notes


def _named_as_time(name: str) -> bool:
    return name.lower().endswith(("_time", "_times")) or _plain(name) in _ONSETS


def _lies_near(values: np.ndarray, trials: Mapping[str, np.ndarray]) -> bool:
    """Whether nine of ten times lie at their trial: durations and times since its start do not."""
    start = trials["start_time"]
    stop = np.fmax(trials.get("stop_time", start), start)
    known = np.isfinite(values)
    near = (values >= start - _NEAR_S) & (values <= stop + _NEAR_S)
    return bool(known.any() and near[known].mean() >= 0.9)


def _default_align(events: Mapping[str, np.ndarray]) -> str | None:
    """Stimulus onset by its usual names, alone or with more words in front (``gabor_stimulus_onset_time``)."""
    plain = {_plain(name): name for name in reversed(list(events))}
    exact = (plain[onset] for onset in _ONSETS if onset in plain)
    longer = (name for onset in _ONSETS for own, name in plain.items() if own.endswith(onset))
    return next(exact, None) or next(longer, "start_time" if events else None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").removesuffix("s")


# ---- before pynwb --------------------------------------------------------------------------------


def _is_zarr(folder: Path) -> bool:
    if not any((folder / name).is_file() for name in (".zgroup", ".zattrs", "zarr.json")):
        return False
    return ".nwb" in folder.suffixes or (folder / "specifications").is_dir()


def _import_pynwb(path: str) -> None:
    try:
        import pynwb  # noqa: F401
    except ImportError as error:
        remedy = "Install it: pip install 'sessionwise[nwb]'"
        raise EnvironmentProblem(path, "reading NWB files needs pynwb", "pynwb", remedy) from error


def _names_to_read(path: str, file: h5py.Group) -> list[str]:
    """Data sets that will be read: of the tables those of one number or text a row, never waveforms."""
    import h5py

    if "nwb_version" not in file.attrs and "nwb_version" in file:
        raise DataError(path, "is of NWB version 1", "NWB 2", "Convert it to NWB 2")
    if not isinstance(file.get("units"), h5py.Group):
        found = f"has no table 'units' (it has {', '.join(sorted(file)) or 'nothing'})"
        raise DataError(path, found, "sorted units with spike times", "Is this the file with the spike sorting?")
    names = ["general/subject", "general/session_id", "identifier", "session_start_time", "specifications"]
    for table in ("units", _TRIALS, _ELECTRODES):
        group = file.get(table)
        items = dict(group.items()) if isinstance(group, h5py.Group) else {}
        arrays = {name: item for name, item in items.items() if isinstance(item, h5py.Dataset)}
        names += [f"{table}/{name}" for name, item in arrays.items() if item.ndim == 1 or name == "obs_intervals"]
    return names


def _check_spikes(path: str, file: h5py.Group) -> None:
    """The raw ragged spike times: an index that falls or points outside would give spikes to other units."""
    for name in (_SPIKES, _INDEX):
        if name not in file or file[name].ndim != 1:
            there = ", ".join(sorted(file["units"]))
            raise DataError(path, f"has no {name!r} (units has {there})", "spike times of every unit", _CHECK)
    index, spikes, units = file[_INDEX][()], file[_SPIKES].shape[0], file["units/id"].shape[0]
    if not units or len(index) != units or index.dtype.kind not in "iu":
        found = f"{units} units and {len(index)} entries in {_INDEX!r} ({index.dtype})"
        raise DataError(path, found, "one whole number a unit, at least one unit", _CHECK)
    index = index.astype(np.int64)
    falls = np.flatnonzero(np.diff(index, prepend=0) < 0)
    if len(falls):
        found = f"{_INDEX!r} falls at unit {falls[0]} (to {index[falls[0]]})"
        raise DataError(path, found, "an index that never falls", _CHECK)
    if index[-1] != spikes:
        found = f"{_INDEX!r} ends at {index[-1]}, there are {spikes} spike times"
        raise DataError(path, found, "an index that ends at the last spike", _CHECK)
    if file[_SPIKES].dtype.kind != "f":
        raise DataError(path, f"{_SPIKES!r} has type {file[_SPIKES].dtype}", "times in seconds", _CHECK)


def _check_rows(path: str, file: h5py.Group, table: str) -> None:
    """Columns without an index of their own have one entry a row."""
    import h5py

    items = dict(file[table].items())
    sizes = {name: item.shape[0] for name, item in items.items() if isinstance(item, h5py.Dataset) and item.ndim}
    for needed in ("id", "start_time") if table == _TRIALS else ("id",):
        if needed not in sizes:
            found = f"{table!r} has no {needed!r} (it has {', '.join(sorted(items))})"
            raise DataError(path, found, f"{needed} of every row", _CHECK)
    wrong = {n: size for n, size in sizes.items() if size != sizes["id"] and f"{n}_index" not in sizes}
    if wrong:
        shown = ", ".join(f"{name} {size}" for name, size in sorted(wrong.items())[:5])
        raise DataError(path, f"{table!r} has {sizes['id']} rows, but {shown}", "one entry a row", _CHECK)


@contextmanager
def _opened(path: str, file: h5py.Group) -> Iterator[Any]:
    """The file as pynwb understands it; whatever pynwb raises means that it does not."""
    import warnings

    import pynwb

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about cached and missing namespaces, addressed to authors of extensions
        try:
            with pynwb.NWBHDF5IO(file=file, mode="r", load_namespaces=True) as stream:
                yield stream.read()
        except (SessionwiseError, MemoryError):
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:160] or type(error).__name__
            found = f"cannot be read by pynwb {pynwb.__version__} ({said})"
            raise DataError(path, found, "a valid NWB 2 file", _CHECK) from error


# ---- in the child: tables ------------------------------------------------------------------------


def _tables(path: str, nwb: Any) -> dict[str, Any]:
    notes: list[str] = []
    units, electrodes = _scalars(nwb.units), {}
    if nwb.electrodes is not None:
        electrodes = {**_scalars(nwb.electrodes), "id": np.asarray(nwb.electrodes.id.data[:])}
    index = np.asarray(nwb.units["spike_times"].data[()], np.int64)
    trials = {} if nwb.trials is None else _scalars(nwb.trials, notes)
    return {
        "spike_s": np.asarray(nwb.units["spike_times"].target.data[()], np.float64),
        "spike_unit": np.repeat(np.arange(len(index), dtype=np.int32), np.diff(index, prepend=0)),
        "unit_ids": _unit_ids(path, nwb.units, units, electrodes),
        "areas": _areas(path, nwb.units, units, electrodes, notes),
        "good": _good(units, notes),
        "trials": trials,
        "trial_ids": None if nwb.trials is None else _trial_ids(nwb.trials, notes),
        "span_s": _span(nwb.units, notes),
        "notes": notes,
    }


def _about(nwb: Any, version: Any) -> dict[str, str | None]:
    start = nwb.session_start_time
    texts = {
        **{"session_id": nwb.session_id, "identifier": nwb.identifier, "nwb_version": version},
        **{"institution": nwb.institution, "lab": nwb.lab},
        "subject": None if nwb.subject is None else nwb.subject.subject_id,
        "date": None if start is None else start.date().isoformat(),
    }
    return {name: str(text).strip()[:_MAX_TEXT] if text else None for name, text in texts.items()}


def _scalars(table: Any, notes: list[str] | None = None) -> dict[str, np.ndarray]:
    """name -> one number or text a row; what is ragged, refers to something or has more axes is left out, and noted."""
    from hdmf.common import DynamicTableRegion, VectorIndex

    found, left = {}, []
    for name in table.colnames:
        column = table[name]
        refers = isinstance(column, (DynamicTableRegion, VectorIndex))
        values = None if refers else _plain_values(column.data)
        if values is None:
            left.append(name)
        else:
            found[name] = values
    if left and notes is not None:
        notes.append(f"left out, as they are no single value a trial: {', '.join(left)}")
    return found


def _plain_values(data: Any) -> np.ndarray | None:
    """A column in memory as numbers or texts; None for several axes, references and very long texts."""
    from hdmf.utils import get_data_shape

    if len(get_data_shape(data) or ()) != 1:
        return None
    values = np.asarray(data[:])
    if values.dtype.kind in "OS":
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.tolist()]
        if not all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts):
            return None
        values = np.array(texts, str)
    return values if values.dtype.kind in "biufU" else None


def _trial_ids(table: Any, notes: list[str]) -> np.ndarray | None:
    ids = np.asarray(table.id.data[:])
    if len(np.unique(ids)) == len(ids) and ids.dtype.kind in "iu":
        return ids
    notes.append("ids of trials are repeated or no whole numbers: trials are numbered from 0")
    return None


def _unit_ids(
    path: str, table: Any, units: Mapping[str, np.ndarray], electrodes: Mapping[str, np.ndarray]
) -> list[str]:
    """Names or ids, with the probe in front where ids alone are repeated."""
    ids = [str(i) for i in np.asarray(table.id.data[:])]
    named = [str(name) for name in units.get("unit_name", ())]
    probes = _probes(path, table, units, electrodes) or []
    keyed = [f"{probe}:{i}" for probe, i in zip(probes, ids, strict=True)] if probes else []
    for candidate in (named, ids, keyed):
        if candidate and len(set(candidate)) == len(ids):
            return candidate
    repeated = sorted(i for i, n in Counter(keyed or ids).items() if n > 1)
    found = f"{len(repeated)} ids of units are repeated: {', '.join(repeated[:5])}"
    raise DataError(path, found, "one id a unit, or the probe of each", _CHECK)


def _probes(
    path: str, table: Any, units: Mapping[str, np.ndarray], electrodes: Mapping[str, np.ndarray]
) -> list[str] | None:
    """Name of each unit's probe: a column, the unit's group of electrodes, or that of its first electrode."""
    column = next((units[name] for name in _PROBES if name in units), None)
    if column is not None:
        return [str(name) for name in column]
    if "electrode_group" in table.colnames:
        return [str(group.name) for group in table["electrode_group"].data[:]]
    rows = _electrode_rows(path, table, electrodes)
    if rows is None or "group_name" not in electrodes:
        return None
    return [str(electrodes["group_name"][own[0]]) if len(own) else "" for own in rows]


def _areas(
    path: str, table: Any, units: Mapping[str, np.ndarray], electrodes: Mapping[str, np.ndarray], notes: list[str]
) -> list[str] | None:
    """One region a unit: a column, where most of its electrodes lie, its peak electrode, or its probe's place."""
    ways: dict[str, Callable[[], list[str] | None]] = {
        "a column of units": lambda: next(
            (units[name].tolist() for name in _AREAS if name in units and units[name].dtype.kind == "U"), None
        ),
        "most electrodes of a unit": lambda: _most_electrodes(path, table, electrodes),
        "the peak electrode": lambda: _peak_electrode(units, electrodes),
        "the group of electrodes": lambda: _group_places(table),
    }
    for way, look in ways.items():
        areas = look()
        unknown = sum(area.strip().lower() in _NOWHERE for area in areas or ())
        if areas is not None and unknown < len(areas):
            if unknown:
                notes.append(f"{unknown} of {len(areas)} units have no region ({way})")
            return areas
    return None


def _most_electrodes(path: str, table: Any, electrodes: Mapping[str, np.ndarray]) -> list[str] | None:
    rows = _electrode_rows(path, table, electrodes)
    if rows is None or "location" not in electrodes:
        return None
    places = electrodes["location"]
    return [Counter(places[own].tolist()).most_common(1)[0][0] if len(own) else "" for own in rows]


def _peak_electrode(units: Mapping[str, np.ndarray], electrodes: Mapping[str, np.ndarray]) -> list[str] | None:
    peak = next((units[name] for name in _PEAK if name in units), None)
    if peak is None or not {"location", "id"} <= set(electrodes):
        return None
    place = dict(zip(electrodes["id"].tolist(), electrodes["location"].tolist(), strict=True))
    return [str(place.get(one, "")) for one in peak.tolist()]


def _group_places(table: Any) -> list[str] | None:
    if "electrode_group" not in table.colnames:
        return None
    return [str(group.location or "") for group in table["electrode_group"].data[:]]


def _electrode_rows(path: str, table: Any, electrodes: Mapping[str, np.ndarray]) -> list[np.ndarray] | None:
    """Rows of the table of electrodes that each unit names; None without such a column."""
    from hdmf.common import VectorIndex

    if "electrodes" not in table.colnames or "id" not in electrodes:
        return None
    column, known = table["electrodes"], len(electrodes["id"])
    ragged = isinstance(column, VectorIndex)
    rows = np.asarray((column.target if ragged else column).data[:], np.int64)
    ends = np.asarray(column.data[:], np.int64) if ragged else np.arange(1, len(rows) + 1)
    if (np.diff(ends, prepend=0) < 0).any() or (len(ends) and ends[-1] > len(rows)):
        raise DataError(path, "'units/electrodes_index' falls or points outside", "a ragged index", _CHECK)
    if len(rows) and not (0 <= rows.min() and rows.max() < known):
        found = f"'units/electrodes' names row {rows.max() if rows.min() >= 0 else rows.min()} of {known} electrodes"
        raise DataError(path, found, "rows of the table of electrodes", _CHECK)
    return np.split(rows, ends)[: len(ends)]


def _good(units: Mapping[str, np.ndarray], notes: list[str]) -> np.ndarray | None:
    """(N,) units that pass the file's own quality metric: the first rule that fits and that any unit passes."""
    for name, wanted in _GOOD:
        values = next((column for own, column in units.items() if own.lower() == name), None)
        if values is None:
            continue
        if values.dtype.kind == "U":
            passes = np.char.lower(values) == wanted
        else:
            passes = (values == 1) & (wanted in ("1", "true"))
        if passes.any():
            notes.append(f"good units: {int(passes.sum())} of {len(passes)}, whose {name} is {wanted}")
            return np.asarray(passes, bool)
    return None


def _span(table: Any, notes: list[str]) -> np.ndarray | None:
    """(R, 2) recorded intervals in seconds when all units have the same ones, ascending."""
    if "obs_intervals" not in table.colnames:
        return None
    column = table["obs_intervals"]
    ends, edges = np.asarray(column.data[:], np.int64), np.asarray(column.target.data[:], np.float64)
    each = np.diff(ends, prepend=0)
    if edges.ndim == 2 and edges.shape[1] == 2 and (each == each[0]).all() and ends[-1] == len(edges) and each[0] > 0:
        intervals = edges.reshape(len(ends), each[0], 2)
        if (intervals == intervals[0]).all() and (np.diff(intervals[0].ravel()) >= 0).all():
            return np.asarray(intervals[0])
    notes.append("obs_intervals differ between units and are not used")
    return None
