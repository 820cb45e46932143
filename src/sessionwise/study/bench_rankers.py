"""``bench-rankers``: how well cheap rankings agree with the full procedure, as a page, tables and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sessionwise.analysis.bench_rankers import BENCH_FILE, FOLDER, bench_document
from sessionwise.analysis.fidelity import fidelity_csv, fidelity_table
from sessionwise.analysis.fidelity_figure import fidelity_figure
from sessionwise.analysis.pages import number, write_figure
from sessionwise.errors import UsageError
from sessionwise.io.files import make_folder, sealed_files, write_bytes, write_json

TABLE_FILE, PAGE_FILE, FIGURE = "fidelity.csv", "bench.md", "fidelity"


def bench_rankers(
    studies: Sequence[str | Path], to: str | Path | None = None, reference_seeds: Sequence[int] | None = None
) -> tuple[Path, dict[str, Any]]:
    """Compare the rankings of one or several studies with their references; the folder written, and ``bench.json``.

    ``bench.json`` (every number), ``fidelity.csv``, ``bench.md`` and the figure as SVG, PDF and PNG: a pure function of
    the stored rankings and final scores. to: needed for several studies; of one it is ``STUDY/bench-rankers``.
    """
    places = [Path(study) for study in studies]
    if to is None and len(places) > 1:
        raise UsageError("--to", f"is missing for {len(places)} studies", "a folder for what they say together")
    if len({place.name for place in places}) < len(places):
        raise UsageError("STUDY", "two studies have the same name", "folders of different names")
    folder = Path(to) if to else places[0] / FOLDER
    document = bench_document(places, reference_seeds)
    make_folder(folder / "figures")
    with sealed_files(folder, keep=True):
        _write(folder, document)
    return folder, document


def _write(folder: Path, document: Mapping[str, Any]) -> None:
    write_json(folder / BENCH_FILE, document)
    write_bytes(folder / TABLE_FILE, fidelity_csv(document["summary"]).encode())
    figure = fidelity_figure(
        document["summary"],
        ceiling=document["ceiling"],
        random=document["random"],
        target_agnostic=document["target_agnostic"],
    )
    if figure is not None:
        write_figure(folder, figure, FIGURE)
    write_bytes(folder / PAGE_FILE, page(document, figure is not None).encode())


def page(document: Mapping[str, Any], with_figure: bool) -> str:
    """The comparison as Markdown."""
    parts = [
        f"# Rankers against the full procedure: {', '.join(document['studies'])}",
        _about(document),
        f"![Agreement against cost](figures/{FIGURE}.svg)" if with_figure else "",
        fidelity_table(document["summary"]),
        _levels(document),
        _calibrations(document["calibration"]),
        _final(document["final"]),
        _recommended(document),
        _left_out(document["left_out"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(document: Mapping[str, Any]) -> str:
    asked = document["questions"]
    seeds = sorted({tuple(question["reference_seeds"]) for question in asked})
    pools = sorted({question["n_pool"] for question in asked})
    over = "studies" if len(document["studies"]) > 1 else "held-out sessions"
    return (
        f"{len(asked)} held-out sessions, pools of {', '.join(map(str, pools))}. The reference is the full procedure "
        f"with the seeds {' or '.join(', '.join(map(str, s)) for s in seeds)}, which no other ranking has; costs are "
        f"shares of its floating-point operations, from scratch. `×2`: the method's runs have two seeds. Intervals: "
        f"95 %, bootstrap over {over}."
    )


def _levels(document: Mapping[str, Any]) -> str:
    ceiling, random = document["ceiling"], document["random"]["spearman"]
    band = f", random order {number(random['mean'], 2)} [{number(random['low'], 2)}, {number(random['high'], 2)}]"
    agnostic = document["target_agnostic"]
    rest = f", scores for other held-out sessions {number(agnostic.get('spearman'), 2)}" if agnostic else ""
    return (
        f"Spearman's rho to compare with: noise ceiling {number(ceiling.get('spearman'), 2)} (two full rankings with "
        f"different seeds, from the agreement between single seeds){band if random else ''}{rest}."
    )


def _calibrations(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    if not found:
        return ""
    title = {
        "reference": "rank by the reference, same trials",
        "fresh": "rank by the reference's cores on test trials",
    }
    lines = ["## How often 80 % rank intervals hold", ""]
    lines.append("Stated: the chance of the intervals as they stand, which the share should equal. Ranks are whole, so")
    lines += ["ends that hold 80 % of the draws mostly hold more.", ""]
    lines.append("| method | rank by | share | 95 % interval | stated | cases |")
    lines.append("|---|---|---:|---:|---:|---:|")
    for name, entries in found.items():
        for e in entries:
            interval = f"[{number(e['low'], 2)}, {number(e['high'], 2)}]"
            cells = [e["method"], title[name], number(e["share"], 2), interval, number(e["stated"], 2), str(e["n"])]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _final(final: Mapping[str, Any] | None) -> str:
    if not final:
        return ""
    seeds = ", ".join(map(str, final["seeds"]))
    lines = [
        "## Final regret",
        "",
        f"Test bits per spike of a model pretrained on the reference's {final['top']} best sessions (mean "
        f"{number(final['reference_bps'])}) minus on those of the ranker, or on a draw by lot; all trained with the "
        f"seeds {seeds}. Lots: theirs, at the held-out sessions of the ranker.",
        "",
        "| sessions chosen by | mean regret | lowest | highest | lots | held-out sessions |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for entry in final["regrets"]:
        ends = [number(f(entry["values"])) if entry["values"] else "–" for f in (min, max)]
        cells = [entry["method"], number(entry["mean"]), *ends, number(entry["lots"]), str(entry["n"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _recommended(document: Mapping[str, Any]) -> str:
    if not document["recommended"]:
        return ""
    lines = [
        "## Recommended sets",
        "",
        f"The same for the sessions that `recommend` named, however many. Regret: against the reference's "
        f"{document['final']['top']} best, with its 95 % interval. Cost: of the recommendation, as a share of the full "
        f"procedure with the seeds that it was asked for.",
        "",
        "| asked | cost | mean regret | 95 % interval | lots | held-out sessions | answers |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for entry in document["recommended"]:
        regret, kinds = entry["regret"], ", ".join(f"{n} {kind}" for kind, n in entry["kinds"].items())
        span = f"[{number(regret['low'])}, {number(regret['high'])}]"
        cells = [f"`{entry['method']}`", number(entry["cost_share"], 2), number(regret["mean"]), span]
        lines.append(f"| {' | '.join([*cells, number(entry['lots']), str(regret['n']), kinds])} |")
    return "\n".join(lines)


def _left_out(entries: Sequence[Mapping[str, Any]]) -> str:
    if not entries:
        return ""
    names = sorted({entry["method"] for entry in entries})
    return f"Left out, since they share a seed with the reference: {', '.join(names)} ({len(entries)} in all)."
