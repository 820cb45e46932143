"""What a person sees while runs are computed: a live table on a terminal, plain lines elsewhere; all on stderr."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sessionwise.runs.schedule import Outcome
from sessionwise.runs.spec import RunSpec

LINE_INTERVAL_S = 30.0
_SHOWN_RUNS = 16


@dataclass
class RunProgress:
    """A run under way: its specification, the last event, and where and when it started (a resumed one not at 0)."""

    spec: RunSpec
    since: float
    event: dict[str, Any] = field(default_factory=dict)
    first_step: int | None = None

    @property
    def step(self) -> int:
        """Optimiser steps behind it, those of earlier commands included."""
        return int(self.event.get("step") or 0)

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return int(self.event.get("steps") or self.spec.steps)


class Progress:
    """Follows the runs of a command and shows nothing; subclasses show. Times are monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.total: Counter[str] = Counter()
        self.finished_by_kind: Counter[str] = Counter()
        self.failed = 0
        self.current: dict[str, RunProgress] = {}
        self._open: dict[str, RunSpec] = {}
        self._spent: dict[str, float] = {}  # kind -> seconds of computation
        self._stepped: dict[str, int] = {}  # kind -> steps computed in them
        self._workers = 1

    def begin(self, specs: Sequence[RunSpec], workers: int) -> None:
        """The runs of a command or of its next stage, and how many are computed at a time; the pace is kept."""
        self.total = Counter(spec.kind for spec in specs)
        self.finished_by_kind, self.failed = Counter(), 0
        self._open = {spec.key: spec for spec in specs}
        self._workers = workers
        self.show()

    def start(self, spec: RunSpec) -> None:
        """A run begins."""
        self.current[spec.key] = RunProgress(spec, self.clock())
        self.show()

    def event(self, spec: RunSpec, event: dict[str, Any]) -> None:
        """A run reports ``{"step", "steps", "loss", "bps"}``; a missing value keeps the last one."""
        run = self.current.setdefault(spec.key, RunProgress(spec, self.clock()))
        run.event.update({name: value for name, value in event.items() if value is not None})
        if run.first_step is None:
            run.first_step = max(run.step - 1, 0)
        self.show()

    def pause(self, spec: RunSpec) -> None:
        """A run is no longer under way, and not finished: it waits or was lost."""
        self._account(self.current.pop(spec.key, None))
        self.show()

    def finish(self, spec: RunSpec, outcome: Outcome) -> None:
        """A run is settled, whether computed now or stored before."""
        run = self.current.pop(spec.key, None)
        self._account(run, spec.steps if outcome.state == "done" else 0)
        self._open.pop(spec.key, None)
        self.finished_by_kind[spec.kind] += 1
        self.failed += outcome.state != "done"
        self.settled(spec, outcome, run)
        self.show()

    def end(self) -> None:
        """The command is over."""

    def note(self, text: str) -> None:
        """Something a person should know."""

    def settled(self, spec: RunSpec, outcome: Outcome, run: RunProgress | None) -> None:
        """Show a finished run."""

    def show(self) -> None:
        """Show how things stand; called often."""

    def seconds_left(self) -> float | None:
        """Estimated from the seconds a step took so far, by kind of run; None before the first step."""
        pace = self._pace()
        if not pace:
            return None
        overall = sum(pace.values()) / len(pace)
        left = 0.0
        for key, spec in self._open.items():
            done = self.current[key].step if key in self.current else 0
            left += max(spec.steps - done, 0) * pace.get(spec.kind, overall)
        return left / max(min(max(self._workers, len(self.current)), len(self._open)), 1)

    def _pace(self) -> dict[str, float]:
        """Kind of run -> seconds a step, over what this command computed so far."""
        spent, stepped = dict(self._spent), dict(self._stepped)
        for run in self.current.values():
            self._add(run, run.step, spent, stepped)
        return {kind: spent[kind] / steps for kind, steps in stepped.items() if steps}

    def _account(self, run: RunProgress | None, last_step: int = 0) -> None:
        if run:
            self._add(run, max(last_step, run.step), self._spent, self._stepped)

    def _add(self, run: RunProgress, step: int, spent: dict[str, float], stepped: dict[str, int]) -> None:
        kind = run.spec.kind
        spent[kind] = spent.get(kind, 0.0) + self.clock() - run.since
        stepped[kind] = stepped.get(kind, 0) + max(step - (run.first_step or 0), 0)


class LineProgress(Progress):
    """A line for each finished run, and at least one in 30 seconds."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._stream = stream or sys.stderr
        self._last = clock()

    def begin(self, specs: Sequence[RunSpec], workers: int) -> None:
        """Say how many runs there are."""
        super().begin(specs, workers)
        self._say(f"{len(specs)} runs: {_counts(self)}")

    def settled(self, spec: RunSpec, outcome: Outcome, run: RunProgress | None) -> None:
        """One line for a run that this command computed or that failed."""
        if outcome.computed or outcome.state != "done":
            self._say(f"{outcome_line(spec, outcome, run)} ({_counts(self)}{_left(self)})")

    def note(self, text: str) -> None:
        """One line."""
        self._say(text)

    def show(self) -> None:
        """A line when there was none for a while."""
        if self.clock() - self._last >= LINE_INTERVAL_S:
            runs = "; ".join(f"{run.spec.name} {_standing(run)}" for run in list(self.current.values())[:4])
            self._say(f"{_counts(self)}{_left(self)}: {runs or 'waiting'}")

    def _say(self, text: str) -> None:
        self._last = self.clock()
        print(f"{time.strftime('%H:%M:%S')} {text}", file=self._stream, flush=True)


class LiveProgress(Progress):
    """A table that is redrawn in place: runs done by kind, runs under way, time left."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console or Console(stderr=True)
        self._live: Live | None = None

    def begin(self, specs: Sequence[RunSpec], workers: int) -> None:
        """Start drawing."""
        super().begin(specs, workers)
        self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self.render)
        self._live.start(refresh=True)

    def end(self) -> None:
        """Draw the last state and leave it."""
        if self._live:
            self._live.stop()

    def settled(self, spec: RunSpec, outcome: Outcome, run: RunProgress | None) -> None:
        """What did not succeed stays on the screen above the table."""
        if outcome.state != "done":
            self.note(outcome_line(spec, outcome, run))

    def note(self, text: str) -> None:
        """A line above the table."""
        self._console.print(Text(text))

    def render(self) -> Group:
        """The table as it stands."""
        table = Table(box=None, pad_edge=False)
        for title in ("run", "step", "loss", "validation bits/spike"):
            table.add_column(title, justify="left" if title == "run" else "right")
        for run in list(self.current.values())[:_SHOWN_RUNS]:
            steps = f"{run.step}/{run.steps}" if run.event else ".."
            row = (run.spec.name, steps, _number(run.event.get("loss")), _number(run.event.get("bps")))
            table.add_row(*(Text(cell) for cell in row))
        return Group(table, Text(f"{_counts(self)}{_left(self)}"))


def make_progress(stream: TextIO | None = None) -> Progress:
    """A live table when the stream (default: stderr) is a terminal, else plain lines."""
    stream = stream or sys.stderr
    return LiveProgress(Console(file=stream)) if stream.isatty() else LineProgress(stream)


def outcome_line(spec: RunSpec, outcome: Outcome, run: RunProgress | None = None) -> str:
    """One finished run in a line."""
    standing = f", {_standing(run)}" if run and run.event else ""
    reason = f": {outcome.reason}" if outcome.reason else ""
    return f"{spec.name} {outcome.state} in {outcome.seconds:.1f} s{standing}{reason}"


def _standing(run: RunProgress) -> str:
    parts = [f"step {run.step}/{run.steps}"]
    parts += [f"{name} {_number(run.event[name])}" for name in ("loss", "bps") if run.event.get(name) is not None]
    return ", ".join(parts)


def _counts(progress: Progress) -> str:
    kinds = [f"{kind} {progress.finished_by_kind[kind]}/{count}" for kind, count in progress.total.items()]
    failed = f", {progress.failed} not successful" if progress.failed else ""
    return ", ".join(kinds) + failed


def _left(progress: Progress) -> str:
    seconds = progress.seconds_left()
    if seconds is None or not progress.current:
        return ""
    if seconds < 90:
        return f", about {seconds:.0f} s left"
    return f", about {seconds / 60:.0f} min left" if seconds < 5400 else f", about {seconds / 3600:.1f} h left"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ".."
