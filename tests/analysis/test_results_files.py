"""Tables of results that somebody damaged: one line that says where, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionwise.analysis.results import TRANSFER_FIELDS, _transfer, write_transfer
from sessionwise.errors import DataError

ROW = {"source": "a", "target": "b", "seed": 10, "value": 0.25, "state": "done", "reason": None}


def test_transfer_scores_come_back(tmp_path: Path) -> None:
    write_transfer(tmp_path / "transfer.csv", [ROW, {**ROW, "value": None, "state": "failed", "reason": "out of luck"}])
    first, second = _transfer(tmp_path / "transfer.csv", ["a", "b"])
    assert first == ROW and second["value"] is None and second["reason"] == "out of luck"


@pytest.mark.parametrize(("column", "cell"), [("source", "c"), ("seed", "ten"), ("seed", ""), ("value", "much")])
def test_a_damaged_transfer_score_names_its_line(tmp_path: Path, column: str, cell: str) -> None:
    path = tmp_path / "transfer.csv"
    write_transfer(path, [ROW])
    cells = path.read_text().splitlines()[1].split(",")
    cells[TRANSFER_FIELDS.index(column)] = cell
    path.write_text(path.read_text().splitlines()[0] + "\n" + ",".join(cells) + "\n")
    with pytest.raises(DataError, match=r"transfer.csv, line 2: is no transfer score"):
        _transfer(path, ["a", "b"])
