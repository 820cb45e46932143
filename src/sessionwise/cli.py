"""The commands: each reads its arguments, calls public functions, and prints what they return.

Results go to standard output, progress, notes and problems to standard error. Work is imported inside the commands, so
that ``--help`` and the data commands never load torch.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

from sessionwise.cli_data import StorePath, data_app
from sessionwise.cli_runs import add_commands
from sessionwise.errors import (
    EXIT_SOME_RUNS_FAILED,
    EXIT_STOPPED,
    SessionwiseError,
    UsageError,
)
from sessionwise.terminal import MAX_PROBLEMS, print_table, say, say_problems, show_warning, shown

_CONTROLS = {"baseline": "baseline (from scratch)", "random_core": "random frozen core"}
_INTERRUPTED = 130  # what the command line library makes of Ctrl-C

app = typer.Typer(
    name="sessionwise",
    help="Which earlier recordings should a Neural Data Transformer be pretrained on?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
add_commands(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a command; typed errors become one line each and an exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    warnings.showwarning = show_warning
    try:
        app([a for a in arguments if a != "--debug"], prog_name="sessionwise")
    except SessionwiseError as error:
        if debug:
            traceback.print_exc()
        say_problems(error)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code != _INTERRUPTED:
            raise
        say("Stopped. Run the same command again to go on.")
        sys.exit(EXIT_STOPPED)


def _version(wanted: bool) -> None:
    if wanted:
        from sessionwise import __version__

        print(f"sessionwise {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Which earlier recordings should a Neural Data Transformer be pretrained on?"""


# ---------------------------------------------------------------------------------------------------------------------
# sessionwise rank, demo, report
# ---------------------------------------------------------------------------------------------------------------------

StudyPath = Annotated[Path, typer.Option("--to", metavar="STUDY", help="Folder of runs and results; goes on there.")]
Executor = Annotated[
    str, typer.Option("--on", help="processes[:N] (default: one a core) | here | slurm[:PROFILE.toml] | dask:ADDRESS")
]


Pool = Annotated[
    str | None, typer.Option(metavar="ID,...|FILTER", help="Ids, or a filter: 'subject != Hench'. [all others]")
]
Preset = Annotated[str, typer.Option(help="tiny | small | paper")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: train.epochs=50")
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try runs again that failed before.")]


@app.command("rank", epilog="Example: sessionwise rank my-store --heldout 11_Hench_2017-06-18 --preset tiny --to study")
def rank_command(
    store: StorePath,
    heldout: Annotated[str, typer.Option(metavar="ID[,ID]", help="Session(s) to rank the pool for.")],
    to: StudyPath,
    method: Annotated[
        str,
        typer.Option(
            help="full (the paper's procedure) | short | small_proxy | full_shrunk | small_shrunk | halving"
            " | set_regression | latent_distance | quality | zero_training"
            " | with several held-out sessions: matrix_completion | ensemble"
            " | controls: own_score | other_targets | trials | random"
        ),
    ] = "full",
    budget: Annotated[
        str | None,
        typer.Option(
            help="What it may cost: share of the full procedure (30%), steps (5000-steps) or time (2h). [no limit]"
        ),
    ] = None,
    pool: Pool = None,
    preset: Preset = "small",
    seeds: Annotated[str, typer.Option(help="Seeds; the score is the mean over them.")] = "10,20,42",
    set_: Changes = None,
    on: Executor = "processes",
    retry_failed: RetryFailed = False,
) -> None:
    """Rank the pool for a held-out session: pretrain on each, finetune around each frozen core, score on validation.

    That is the paper's procedure; --method names cheaper ones, and controls that they have to beat.
    What is stored in STUDY is not computed again; after any interruption the same command goes on.
    """
    names, whole_seeds = _names("--heldout", heldout), _whole_numbers("--seeds", seeds)
    with _workers_from_now(on, to):
        from sessionwise.data.store import open_store
        from sessionwise.runs.progress import make_progress
        from sessionwise.selection.rankers import rank_many

        rankings = rank_many(
            open_store(store),
            names,
            method=method,
            budget=budget,
            pool=pool,
            preset=preset,
            seeds=whole_seeds,
            overrides=set_ or (),
            to=to,
            on=on,
            progress=make_progress(),
            retry_failed=retry_failed,
        )
    for ranking in rankings:
        _print_ranking(ranking.document)
    print(f"report: {shown(_write_report(to))}")
    _exit_if_failed([arm for ranking in rankings for arm in _all_arms(ranking.document)])


@app.command(
    "recommend",
    epilog="Example: sessionwise recommend my-store --heldout 11_Hench_2017-06-18 --budget 50% --to study",
)
def recommend_command(
    store: StorePath,
    heldout: Annotated[str, typer.Option(metavar="ID", help="The recording to pretrain for.")],
    to: StudyPath,
    budget: Annotated[
        str, typer.Option(help="Share of the full procedure's cost (50%), steps (5000-steps) or time (2h).")
    ] = "50%",
    k: Annotated[str, typer.Option("--k", help="How many to choose, or auto: as many as help.")] = "5",
    choose: Annotated[str, typer.Option(help="top_k, or diverse: sessions that stand for all good ones.")] = "top_k",
    deliver: Annotated[
        bool, typer.Option("--deliver", help="Also train and keep the best model for the recording; not in the budget.")
    ] = False,
    pool: Pool = None,
    preset: Preset = "small",
    seeds: Annotated[str, typer.Option(help="Seeds, as many of them as the budget pays.")] = "10,20,42",
    set_: Changes = None,
    on: Executor = "processes",
    retry_failed: RetryFailed = False,
) -> None:
    """Say which sessions to pretrain on for a recording, what that gains, and how sure it is, within a budget.

    The answer may be that it makes no difference. What is stored in STUDY is not computed again.
    """
    whole_seeds = _whole_numbers("--seeds", seeds)
    with _workers_from_now(on, to):
        from sessionwise.data.store import open_store
        from sessionwise.runs.progress import make_progress
        from sessionwise.study.recommend import recommend

        found = recommend(
            open_store(store),
            heldout,
            budget=budget,
            k=int(k) if k.isdecimal() else k,
            choose=choose,
            pool=pool,
            preset=preset,
            seeds=whole_seeds,
            overrides=set_ or (),
            to=to,
            deliver=deliver,
            on=on,
            progress=make_progress(),
            retry_failed=retry_failed,
        )
    _print_recommendation(found.document)
    print(f"report: {shown(found.folder / 'index.html')}")
    _exit_if_failed([row for row in found.document["rows"] if row["state"] not in ("done", "left out")])


def _print_recommendation(document: Any) -> None:
    from sessionwise.study.recommend import gain_words

    answer, spent = document["answer"], document["budget"]
    rows = []
    for row in document["rows"]:
        chance = _number(row["p_top"].get(str(answer["k"])), 2)
        span = row["state"] if row["rank"] is None else _span(row)
        mark = "yes" if row["chosen"] else None
        rows.append([row["rank"], row["session"], mark, _number(row["score"], 4), span, chance, row["stage"]])
    columns = ["rank", "session", "chosen", "bits/spike", "80 % rank", f"P(top {answer['k']})", "score from"]
    print_table(columns, rows, right=[name for name in columns if name not in ("session", "chosen", "score from")])
    print(f"\n{answer['kind']}: {shown(', '.join(answer['sessions']) or 'no session')}")
    print(shown(answer["text"]))
    for entry in document["gains"]:
        print(gain_words(entry))
    if document["delivered"]:
        print(f"model: {shown(document['delivered']['text'])}")
    print(f"spent {spent['share']:.0%} of the full procedure's cost; asked for {spent['asked']}")


@app.command(
    "study",
    epilog="Example: sessionwise study recipes/demo.toml --dry-run; without --dry-run and with --to STUDY it runs",
)
def study_command(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.toml", help="What to do; see recipes/ and docs/recipes.md.")
    ],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="STUDY", help="Folder of the study; goes on there.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="STORE", help="Sessions, instead of the recipe's data.store.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: data.simulate.seed=1")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan: runs, steps, hours; train nothing.")
    ] = False,
    on: Executor = "processes",
    retry_failed: RetryFailed = False,
) -> None:
    """Run the paper's whole experiment: rankings, orders and sizes, controls, statistics, figures, one report.

    What is stored in STUDY is not computed again; after any interruption the same command goes on.
    """
    from sessionwise.study.tuning_recipe import is_tuning

    if is_tuning(recipe):
        _tuning(recipe, set_ or (), to, store, dry_run, on, retry_failed)
    else:
        _scaling(recipe, set_ or (), to, store, dry_run, on, retry_failed)


def _scaling(
    recipe: Path, changes: Sequence[str], to: Path | None, store: Path | None, dry_run: bool, on: str, retry: bool
) -> None:
    from sessionwise.runs.progress import make_progress
    from sessionwise.study.dry_run import plan_recipe
    from sessionwise.study.scaling import open_recipe, run_study

    asked = open_recipe(recipe, changes, store)
    if dry_run:
        _print_plan(plan_recipe(asked, to, store, on=on))
        return
    with _workers_from_now(on, _required(to)):
        folder = run_study(asked, _required(to), store=store, on=on, progress=make_progress(), retry_failed=retry)
    print(f"report: {shown(_write_report(folder))}")
    _print_study(folder)


def _tuning(
    recipe: Path, changes: Sequence[str], to: Path | None, store: Path | None, dry_run: bool, on: str, retry: bool
) -> None:
    from sessionwise.runs.progress import make_progress
    from sessionwise.study.tuning import load_tuning, run_tuning
    from sessionwise.study.tuning_page import tuning_failures, tuning_table
    from sessionwise.study.tuning_plan import plan_tuning

    asked = load_tuning(recipe, changes, store)
    if dry_run:
        _print_plan(plan_tuning(asked, to, store, on=on))
        return
    folder = run_tuning(asked, _required(to), store=store, on=on, progress=make_progress(), retry_failed=retry)
    columns, rows = tuning_table(folder)
    print_table(columns, rows)
    print(f"tables: {shown(folder)}")
    _exit_if_failed(tuning_failures(folder))


def _print_plan(plan: Any) -> None:
    print_table(plan.columns, plan.table(), right=plan.right)
    for note in plan.notes:
        print(shown(note))


def _required(to: Path | None) -> Path:
    if to is None:
        raise UsageError("--to", "is missing", "the folder of the study", "For example --to study, or use --dry-run")
    return to


def _print_study(folder: Path) -> None:
    """The answer, the claims, and the rows without a number."""
    from sessionwise.analysis.results import open_results
    from sessionwise.io.files import read_json

    document = read_json(folder / "report" / "report.json")
    for sentence in document["answer"]["text"]:
        print(shown(sentence))
    columns = ["claim", "verdict", "value", "95 %"]
    print_table(columns, [_claim_cells(claim) for claim in document["claims"]], right=columns[2:])
    unique = {(r.heldout, r.arm, r.variant, r.size, r.draw, r.seed): r for r in open_results(folder).rows}
    _exit_if_failed(
        [
            {
                "name": f"{row.arm} {row.variant} {row.size or ''} for {row.heldout}",
                "state": row.state,
                "reason": row.reason,
            }
            for row in unique.values()
        ]
    )


def _claim_cells(claim: Any) -> list[str | None]:
    value = claim["value"]
    if value is None or value.get("mean") is None:
        return [claim["text"], claim["verdict"], None, None]
    digits = 4 if value["unit"] == "bps" else 2
    span = f"{_number(value['low'], digits)} to {_number(value['high'], digits)}" if value["low"] is not None else None
    return [claim["text"], claim["verdict"], f"{_number(value['mean'], digits)} {value['unit']}", span]


@app.command(
    "bench-rankers",
    epilog="Example: sessionwise bench-rankers study, or with final scores: sessionwise bench-rankers study --store S",
)
def bench_rankers_command(
    studies: Annotated[
        list[Path], typer.Argument(metavar="STUDY...", help="Folders with rankings by several methods.")
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Where to write. [STUDY/bench-rankers; needed for several]"),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="SEEDS", help="Seeds of the full ranking to compare with. [found]")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store", metavar="STORE", help="Also train and test what the best rankers and `recommend` chose."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="With --store: how many sessions are chosen.")] = 5,
    final: Annotated[int, typer.Option(min=1, help="With --store: how many of the most promising rankers.")] = 4,
    seeds: Annotated[str, typer.Option(help="With --store: seeds of these trainings.")] = "7,8",
    on: Executor = "processes",
) -> None:
    """Compare rankings with the full procedure of other seeds: agreement and regret against cost, with a figure.

    STUDY holds a ranking by the full procedure with seeds of its own (the reference), and others to compare with it.
    """
    wanted = _whole_numbers("--reference", reference) if reference else None
    if store is not None:
        if len(studies) > 1:
            raise UsageError("--store", f"with {len(studies)} studies", "one study at a time", "Then all without it")
        _measure_final(studies[0], store, wanted, (top, final, _whole_numbers("--seeds", seeds)), on)
    from sessionwise.study.bench_rankers import bench_rankers

    folder, document = bench_rankers(studies, to, wanted)
    _print_bench(document)
    print(f"written: {shown(folder)}")


def _print_bench(document: Any) -> None:
    """Costs and the measures that matter most; the rest stands in the page."""
    names = [name for name in ("spearman", "top5", "regret1", "final_regret") if name in document["summary"][0]]
    digits = {"spearman": 2, "top5": 1}
    fresh = {e["method"]: e["share"] for e in document["calibration"].get("fresh", [])}
    rows = []
    for entry in document["summary"]:
        values = [_number(entry[name]["mean"], digits.get(name, 4)) for name in names]
        rows.append([entry["method"], _number(entry["cost_share"], 2), *values, _number(fresh.get(entry["method"]), 2)])
    columns = ["ranker", "cost", *names, "80 % holds"]
    print_table(columns if fresh else columns[:-1], rows if fresh else [r[:-1] for r in rows], right=columns[1:])
    ceiling = document["ceiling"].get("spearman")
    if ceiling is not None:
        print(f"noise ceiling of spearman {ceiling:.2f}; cost: share of the full procedure's")


def _measure_final(study: Path, store: Path, reference: Any, how: tuple[int, int, list[int]], on: str) -> None:
    with _workers_from_now(on, study):
        from sessionwise.data.store import open_store
        from sessionwise.runs.progress import make_progress
        from sessionwise.study.final_regret import measure_final

        top, final, seeds = how
        options: dict[str, Any] = {"reference_seeds": reference, "on": on, "progress": make_progress()}
        measure_final(study, open_store(store), top=top, n_methods=final, seeds=seeds, **options)


@app.command("demo", epilog="Example: sessionwise demo --to demo")
def demo_command(
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Folder for everything the demo makes.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated sessions.")] = 0,
    on: Executor = "processes",
) -> None:
    """Rank simulated sessions of known closeness, compare what selections give, and write the report."""
    with _workers_from_now(on, to):
        from sessionwise.runs.progress import make_progress
        from sessionwise.study.demo import run_demo

        demo = run_demo(to, seed=seed, on=on, progress=make_progress())
    _print_ranking(demo.ranking.document)
    _print_comparison(demo.comparison)
    print(f"report: {shown(demo.report)}")
    _exit_if_failed([*_all_arms(demo.ranking.document), *demo.comparison["arms"]])


@app.command("report", epilog="Example: sessionwise report study")
def report_command(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of a study, or of rankings.")],
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Means over incomplete sets too; the report says so.")
    ] = False,
) -> None:
    """Write the report of a study, or of rankings, again from the stored results; the same bytes every time."""
    print(f"report: {shown(_write_report(study, allow_missing))}")


def _write_report(study: Path, allow_missing: bool = False) -> Path:
    """The report of a finished study; of one that is still at its rankings, that of the rankings."""
    from sessionwise.analysis.report import report_of_study
    from sessionwise.analysis.results import ABOUT_FILE, STUDY_FILE
    from sessionwise.analysis.study_report import report

    if (study / ABOUT_FILE).exists():
        return report(study, allow_missing=allow_missing)
    if (study / STUDY_FILE).exists():
        say(f"note: the study in {study} is not finished; its rankings are shown")
    return report_of_study(study)


def _workers_from_now(on: str, study: Path) -> AbstractContextManager[None]:
    """Workers that start now, beside the imports and the planning of this process, and stay for the whole command.

    Where a study goes on, perhaps with nothing left to compute, they start when there is a run for them.
    """
    from sessionwise.runs.launch import early_workers

    return early_workers(on, start=not (study / "runs").exists())


def _names(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(option, f"{text!r}", "one id, or several with commas", "See: sessionwise data list STORE")
    return names


def _whole_numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(option, f"{text!r}", "whole numbers with commas", f"For example: {option} 10,20,42") from error


def _all_arms(document: Any) -> list[Any]:
    controls = [{**document[arm], "name": name} for arm, name in _CONTROLS.items() if document[arm]]
    return [*document["rows"], *controls]


def _exit_if_failed(rows: Sequence[Any]) -> None:
    missing = [row for row in rows if row["state"] != "done"]
    for row in missing[:MAX_PROBLEMS]:
        say(f"without a score: {row.get('session') or row.get('name')}: {row['state']}: {row['reason']}")
    if missing:
        raise typer.Exit(EXIT_SOME_RUNS_FAILED)


def _print_ranking(document: Any) -> None:
    label = document.get("score_label", "bits/spike")
    rows, columns = [], ["rank", "session", label, "sd", "80 % rank", "P(best)", "P(top 3)", "trials", "units"]
    for row in document["rows"]:
        span = row["state"] if row["rank"] is None else _span(row)
        chances = [_number(row["p_top"].get(k), 2) for k in ("1", "3")]
        score = [_number(row["score"], 4), _number(row["sd"], 4)]
        rows.append([row["rank"], row["session"], *score, span, *chances, row["n_trials"], row["n_units"]])
    for arm, name in ((arm, name) for arm, name in _CONTROLS.items() if document[arm]):
        rows.append([None, name, _number(document[arm]["score"], 4), _number(document[arm]["sd"], 4), *[None] * 5])
    seeds = f", seeds {document['seeds']}" if document["seeds"] else ""
    print(f"\nRanking for {shown(document['heldout'])} by {document['method']}: {document['score_kind']}{seeds}")
    print_table(columns, rows, right=[name for name in columns if name != "session"])
    print(shown(document["verdict"]["text"]))
    if budget := document.get("budget"):
        print(f"spent {budget['share']:.0%} of the full procedure's cost; asked for {budget['asked']}")
    if document["truth"] and document["truth"]["spearman"] is not None:
        print(f"Agreement with the true closeness: Spearman {document['truth']['spearman']:.2f}")


def _print_comparison(comparison: Any) -> None:
    rows = []
    for arm in comparison["arms"]:
        gap = arm["difference"]
        interval = f"{gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]" if gap else None
        numbers = [_number(arm["bps"], 4), _number(arm["sd"], 4), interval, _number(arm["improvement_percent"], 1)]
        rows.append([arm["name"], ", ".join(arm["sessions"]) or None, *numbers, arm["steps"]])
    columns = ["pretrained on", "sessions", "test bits/spike", "sd", "minus baseline [95 %]", "%", "steps"]
    print("\nSelections compared on test trials")
    print_table(columns, rows, right=[name for name in columns if name not in ("pretrained on", "sessions")])
    print(shown(comparison["note"]))


def _span(row: Any) -> str | None:
    return None if row["rank_low"] is None else f"{row['rank_low']}-{row['rank_high']}"


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
