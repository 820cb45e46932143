"""What the commands print: results to standard output, progress, notes and problems to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from sessionwise.errors import Problems, SessionwiseError, SessionwiseWarning

MAX_PROBLEMS = 20


def say(text: str) -> None:
    """A line of progress or a note, on standard error; control characters are shown, never sent."""
    print(shown(text), file=sys.stderr, flush=True)


def shown(text: object) -> str:
    """Any text as one printable line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in str(text))


def say_problems(error: SessionwiseError) -> None:
    """One line a problem, at most 20 and then a count."""
    problems = error.problems if isinstance(error, Problems) else [error]
    for problem in problems[:MAX_PROBLEMS]:
        say(f"error: {problem}")
    if len(problems) > MAX_PROBLEMS:
        say(f"... and {len(problems) - MAX_PROBLEMS} more problems")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> None:
    """A table on standard output that fits a terminal; in a pipe no line is wrapped or cut. ``right``: flush right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=100_000, color_system=None)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if cell is None else shown(cell)) for cell in row))
    console.print(table)


def show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """``warnings.showwarning``: one line, ours as notes."""
    name = "note" if issubclass(category, SessionwiseWarning) else category.__name__
    say(f"{name}: {message}")
