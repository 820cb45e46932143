"""What a person sees: lines with counts and time left, or a live table."""

from __future__ import annotations

import io

from rich.console import Console

from sessionwise.runs.progress import LineProgress, LiveProgress, Progress, make_progress
from sessionwise.runs.schedule import Outcome
from sessionwise.runs.spec import RunSpec


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def spec(seed: int, kind: str = "pretrain", steps: int = 100) -> RunSpec:
    return RunSpec(kind, {}, {}, {}, seed, label=f"{kind} {seed}", steps=steps)


def done(run: RunSpec, **fields: object) -> Outcome:
    return Outcome(**{"key": run.key, "state": "done", "computed": True, "seconds": 3.0, **fields})  # type: ignore[arg-type]


def test_time_left_follows_from_the_pace_of_each_kind():
    clock = Clock()
    progress, runs = Progress(clock), [spec(1), spec(2), spec(3, "finetune"), spec(4, "finetune")]
    progress.begin(runs, workers=1)
    assert progress.seconds_left() is None
    progress.start(runs[0])
    clock.now += 50
    progress.event(runs[0], {"step": 1, "steps": 100})
    progress.finish(runs[0], done(runs[0]))  # 0.5 s a step of pretraining
    assert progress.seconds_left() == 150  # the other kind is not known yet: the same pace
    progress.start(runs[2])
    clock.now += 10
    progress.event(runs[2], {"step": 1, "steps": 100})
    progress.finish(runs[2], done(runs[2]))  # 0.1 s a step of finetuning
    assert round(progress.seconds_left() or 0) == 60


def test_a_resumed_run_counts_only_the_steps_of_this_command():
    clock = Clock()
    progress, run = Progress(clock), spec(1, steps=1000)
    progress.begin([run], workers=2)
    progress.start(run)
    progress.event(run, {"step": 901})
    clock.now += 10
    progress.event(run, {"step": 950})
    assert round(progress.seconds_left() or 0) == 10  # 50 steps in 10 s, 50 are left


def test_lines_for_finished_runs_and_one_in_thirty_seconds():
    clock, stream = Clock(), io.StringIO()
    progress, runs = LineProgress(stream, clock), [spec(1), spec(2), spec(3)]
    progress.begin(runs, workers=2)
    progress.finish(runs[0], done(runs[0], computed=False))
    progress.start(runs[1])
    for _ in range(61):
        clock.now += 1
        progress.event(runs[1], {"step": int(clock.now - 100), "steps": 100, "loss": 0.25, "bps": 0.1234})
    progress.finish(runs[1], done(runs[1]))
    progress.finish(runs[2], done(runs[2], state="failed", reason="raised on purpose", computed=False))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5 and all(line[2] == line[5] == ":" for line in lines)
    assert "3 runs: pretrain 0/3" in lines[0]
    assert "step 30/100, loss 0.2500, bps 0.1234" in lines[1] and "left" in lines[1] and "1/3" in lines[1]
    assert "pretrain 2 done in 3.0 s" in lines[3] and "2/3" in lines[3]
    assert "failed" in lines[4] and "raised on purpose" in lines[4] and "1 not successful" in lines[4]


def test_the_live_table_shows_runs_under_way():
    clock, stream = Clock(), io.StringIO()
    progress = LiveProgress(Console(file=stream, force_terminal=True, width=120), clock)
    runs = [spec(1), spec(2, "finetune")]
    progress.begin(runs, workers=2)
    assert "pretrain 0/1, finetune 0/1" in stream.getvalue()
    progress.start(runs[0])
    clock.now += 5
    progress.event(runs[0], {"step": 40, "steps": 100, "loss": 0.5, "bps": None})
    progress.event(runs[0], {"step": 50, "steps": 100, "loss": 0.25, "bps": 0.125})
    progress.event(runs[0], {"step": 51, "steps": 100, "loss": 0.2, "bps": None})
    shown = Console(width=120, file=io.StringIO(), record=True)
    shown.print(progress.render())
    text = shown.export_text()
    for expected in ("pretrain 1", "51/100", "0.2000", "0.1250", "pretrain 0/1, finetune 0/1", "left"):
        assert expected in text
    progress.finish(runs[1], done(runs[1], state="diverged", reason="loss is NaN [step 3]"))
    progress.end()
    assert "loss is NaN [step 3]" in stream.getvalue() and "finetune 1/1" in stream.getvalue()


def test_a_terminal_gets_the_table_and_a_file_lines():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(make_progress(Terminal()), LiveProgress)
    assert isinstance(make_progress(io.StringIO()), LineProgress)


def test_the_next_stage_of_a_command_counts_its_own_runs_and_keeps_the_pace():
    clock = Clock()
    progress, runs = Progress(clock), [spec(1), spec(2)]
    progress.begin(runs[:1], workers=1)
    progress.start(runs[0])
    clock.now += 50
    progress.event(runs[0], {"step": 1, "steps": 100})
    progress.finish(runs[0], done(runs[0], state="diverged"))
    progress.begin(runs, workers=1)
    assert (progress.total["pretrain"], progress.finished_by_kind["pretrain"], progress.failed) == (2, 0, 0)
    assert progress.seconds_left() is not None
