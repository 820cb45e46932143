"""More columns of sessions from a table: numbers are numbers, what is missing is None, what is no table is refused."""

import pytest

from sessionwise.data.metadata import MAX_BYTES, read_metadata
from sessionwise.errors import DataError


def table(tmp_path, text):
    path = tmp_path / "m.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_numbers_texts_and_gaps(tmp_path):
    path = table(tmp_path, '\ufeffeid,good,depth,note\na,12,-3.5,"x, y"\nb,nan,,=1+1\nz,1,2,other\n')
    assert read_metadata(path, ["a", "b", "c"]) == {
        "a": {"good": 12.0, "depth": -3.5, "note": "x, y"},
        "b": {"good": None, "depth": None, "note": "=1+1"},
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("eid\na\n", "two or more named columns"),
        ("eid,x,x\na,1,2\n", "each once"),
        ("eid,x,\na,1,2\n", "named columns"),
        ("eid,x\na,1\na,2\n", "line 3: names a session twice"),
        ("eid,x\na,1,2\n", "line 2: has 3 cells"),
        ("eid,x\nq,1\n", "names none of the 1 sessions"),
        (b"\xff\xfe\x00x", "no CSV in UTF-8"),
        ('eid,x\na,"1\n', "no CSV"),
    ],
)
def test_what_is_no_such_table_is_refused_by_its_line(tmp_path, text, says):
    with pytest.raises(DataError, match=says):
        read_metadata(table(tmp_path, text), ["a"])


def test_a_huge_or_missing_table_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_metadata(tmp_path / "none.csv", ["a"])
    with pytest.raises(DataError, match="too large"):
        read_metadata(table(tmp_path, b"x" * (MAX_BYTES + 1)), ["a"])
