"""Compile the manifest of IBL's RepeatedSite sessions that is part of the package.

    python benchmarks/make_manifest.py METADATA.csv > src/sessionwise/data/repeated_site.csv

METADATA.csv has one row a session, compiled from IBL's public release tables. Of its columns the manifest keeps eid,
pid, probe, subject, lab, date and the release as they are, and

    n_trials         as trials         trials of the session before any mask: known of all
    mask_n_good      as trials_masked  trials that IBL's mask keeps: known of 39
    units_fr_ge_0p1  as units          units of at least 0.1 Hz: known of 77 (n_units_all counts near-empty slots of
                                       the spike sorter and is no number of neurons)
    n_units_good     as units_good     units that IBL's quality metrics pass: known of 77

sorted by eid. These are facts about public recordings; no recording is in the manifest.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path

TEXTS = {name: name for name in ("eid", "pid", "probe", "subject", "lab", "date")} | {"source_release": "release"}
NUMBERS = {
    "n_trials": "trials",
    "mask_n_good": "trials_masked",
    "units_fr_ge_0p1": "units",
    "n_units_good": "units_good",
}


def whole(text: str) -> str:
    """A count as a whole number (the table writes some as 90.0); an empty cell stays empty."""
    if not text:
        return ""
    number = float(text)
    if number != int(number):
        raise ValueError(f"{text} is no count")
    return str(int(number))


def manifest_row(row: Mapping[str, str]) -> dict[str, str]:
    """A row of the manifest from a row of the table."""
    return {name: row[column] for column, name in TEXTS.items()} | {
        name: whole(row[column]) for column, name in NUMBERS.items()
    }


def main(path: str) -> None:
    """Write the manifest to standard output."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = [manifest_row(row) for row in csv.DictReader(file)]
    writer = csv.DictWriter(sys.stdout, [*TEXTS.values(), *NUMBERS.values()], lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["eid"]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
