"""What the offline pages share: figures as files and data URIs, the template environment, inert text and JSON.

A page loads nothing: its figures are data URIs, no script in it runs, and text from recordings is escaped. The same
input gives the same bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from sessionwise.analysis import figures
from sessionwise.analysis.trial_splits import share
from sessionwise.errors import DataError
from sessionwise.io.files import write_bytes

FORMS = ("svg", "pdf", "png")
# Between groups of digits: the same in every country.
_NARROW = "\u202f"


def write_figure(folder: Path, drawn: Figure, file: str) -> dict[str, Any]:
    """Write ``folder/figures/file`` in every form; the SVG comes back as a data URI with its size in CSS pixels."""
    forms = {form: figures.render(drawn, form) for form in FORMS}
    for form, content in forms.items():
        write_bytes(folder / "figures" / f"{file}.{form}", content)
    uri = "data:image/svg+xml;base64," + base64.b64encode(forms["svg"]).decode()
    width, height = (round(inches * 96) for inches in drawn.get_size_inches())
    return {"file": file, "uri": uri, "width": width, "height": height}


def drop_old_files(folder: Path, written: Iterable[str], forms: Iterable[str]) -> None:
    """Remove what an earlier report left in a folder, so that nothing beside the page belongs to another one.

    written: names of the files that stay; forms: only files with these endings are touched.
    """
    keep, endings = set(written), {f".{form}" for form in forms}
    for path in folder.iterdir():
        if path.suffix in endings and path.name not in keep:
            path.unlink()


def write_page(path: Path, template: str, shown: Mapping[str, Any], data: Any) -> Path:
    """Fill a template and write the page; ``data`` goes into it as JSON that does nothing."""
    page = _environment().get_template(template).render(**shown, data=inert_json(data))
    write_bytes(path, page.encode("utf-8", "backslashreplace"))
    return path


def inert_json(data: Any) -> Markup:
    """JSON that no HTML parser takes for anything else."""
    try:
        text = json.dumps(data, sort_keys=True, allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise DataError("report", f"holds what JSON cannot hold ({error})", "numbers and text") from error
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def number(value: float | None, digits: int = 4) -> str:
    """A number with a real minus sign; a dash where there is none."""
    return "–" if value is None else _minus(f"{_rounded(value, digits):.{digits}f}")


def signed(value: float | None, digits: int = 4) -> str:
    """A number with its sign; a dash where there is none."""
    return "–" if value is None else _minus(f"{_rounded(value, digits):+.{digits}f}")


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def power(value: float | None) -> str:
    """``3.2e+12``, for counts beyond reading."""
    return "–" if value is None else f"{value:.1e}"


def grouped(value: float | None) -> str:
    """A count in groups of three digits; means of counts are rounded."""
    return "–" if value is None else f"{round(value):,}".replace(",", _NARROW)


def shown(text: Any) -> str:
    """Text in which nothing is invisible: control and direction characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in str(text))


def visible(text: Any) -> str:
    """As ``shown``, but the narrow space of our own numbers stays."""
    return _NARROW.join(shown(part) for part in str(text).split(_NARROW))


def flat(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(name, value) of nested settings, one level of sections joined by a dot."""
    pairs: list[tuple[str, Any]] = []
    for section, value in settings.items():
        if isinstance(value, Mapping):
            pairs += [(f"{section}.{name}", item) for name, item in value.items()]
        else:
            pairs.append((section, value))
    return pairs


def environments(provenance: Mapping[str, Any]) -> list[list[tuple[str, Any]]]:
    """The different environments that the runs were computed in; older rankings hold that of the ranking alone."""
    listed = provenance.get("environments") or [provenance.get("versions") or {}]
    each = [sorted(flat(environment)) for environment in listed if environment]
    return [environment for i, environment in enumerate(each) if environment not in each[:i]]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sessionwise.analysis", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed, percent=percent, grouped=grouped, power=power)
    environment.filters.update(shown=shown, visible=visible, share=share)
    return environment


def _rounded(value: float, digits: int) -> float:
    """Rounded, and never a negative zero."""
    return round(value, digits) + 0.0


def _minus(text: str) -> str:
    return text.replace("-", "−")
