"""Pictures of recordings kept in a study: drawn where the store is open, found again where only results are read.

    STUDY/rankings/<held-out>/<ranking>/recording.png     the picture of ``recording_figures``
    STUDY/rankings/<held-out>/<ranking>/recording.json    what it was drawn from, its caption, its SHA-256

A picture belongs to a ranking when both name the same session and content of training and validation trials. One that
is missing, damaged or of other content is a gap in the report, and never an error: no number depends on it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sessionwise.data.session import Session
from sessionwise.data.splits import Split
from sessionwise.errors import SessionwiseError
from sessionwise.io.files import folder_name, read_json, sha256_bytes, write_bytes, write_json

PICTURE_FILE, ABOUT_FILE = "recording.png", "recording.json"
SCHEMA = 1  # of the picture too: a number higher, and pictures are drawn again
_NEEDED = {"session": str, "trainval_hash": str, "caption": str, "width": int, "height": int}
_CSS_PIXELS_AN_INCH = 96


def keep_picture(folder: Path, session: Session, split: Split, trainval_hash: str) -> Path:
    """Draw a session into a folder, unless its picture is there; returns the picture's path.

    trainval_hash: content hash of the training and validation trials (``SessionData.trainval_hash``).
    """
    from sessionwise.analysis.recording_figures import SIZE, caption, picture  # matplotlib: slow to load

    about = {
        "schema": SCHEMA,
        "session": session.id,
        "trainval_hash": trainval_hash,
        "split": {"kind": split.kind, "seed": split.seed, "sizes": split.sizes},
        "caption": caption(session, split),
        "width": round(SIZE[0] * _CSS_PIXELS_AN_INCH),
        "height": round(SIZE[1] * _CSS_PIXELS_AN_INCH),
    }
    path = folder / PICTURE_FILE
    known = _kept(folder)
    if known is None or {name: known[0].get(name) for name in about} != about:
        content = picture(session, split)
        write_bytes(path, content)
        write_json(folder / ABOUT_FILE, {**about, "sha256": sha256_bytes(content)})
    return path


def find_picture(study: Path, ranking: Mapping[str, Any]) -> dict[str, Any] | None:
    """The kept picture of a document's held-out session: its bytes, caption, data URI and size in CSS pixels."""
    heldout = ranking["heldout"]
    wanted = (heldout, ((ranking.get("provenance") or {}).get("sessions") or {}).get(heldout))
    places = (Path(study) / kind / folder_name(heldout) for kind in ("rankings", "recommendations"))
    for path in sorted(path for place in places for path in place.glob(f"*/{ABOUT_FILE}")):
        about, content = _kept(path.parent) or ({}, b"")
        if (about.get("session"), about.get("trainval_hash")) == wanted:
            uri = "data:image/png;base64," + base64.b64encode(content).decode()
            return {"content": content, "uri": uri, **{name: about[name] for name in ("caption", "width", "height")}}
    return None


def _kept(folder: Path) -> tuple[dict[str, Any], bytes] | None:
    """What a folder's picture was drawn from, and the picture; None where either is missing, damaged or older."""
    try:
        about, content = read_json(folder / ABOUT_FILE), (folder / PICTURE_FILE).read_bytes()
    except (OSError, SessionwiseError):
        return None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA or about.get("sha256") != sha256_bytes(content):
        return None
    return (about, content) if all(isinstance(about.get(name), kind) for name, kind in _NEEDED.items()) else None
