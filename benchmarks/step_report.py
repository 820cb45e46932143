"""The document of ``step.py`` as Markdown: pure functions from numbers to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MIB = 2**20
Document = Mapping[str, Any]


def report(found: Document) -> str:
    """All tables."""
    sections = [
        ("Machine", machine(found)),
        ("Targets", targets(found)),
        *((f"A step, {units} units", steps(rows)) for units, rows in found["steps"].items()),
        ("Other models", [line for name, rows in found["models"].items() for line in [*models(name, rows), ""]]),
        ("bf16 / fp32 step time by width", widths(found)),
        ("Where the time goes, %", parts(found["parts"])),
        ("Activations kept for the backward pass", memory(found)),
        *((f"Time of a step by {name}", cost(name, values)) for name, values in found["cost"].items()),
    ]
    quick = "**A quick run of a toy: its figures say nothing.**\n\n" if found["quick"] else ""
    body = "\n\n".join("\n".join([f"### {title}", "", *lines]).rstrip() for title, lines in sections)
    return f"{quick}{body}\n\nTook {found['minutes']:.1f} minutes."


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, numbers to the right."""
    ruler = ["---"] + ["---:"] * (len(columns) - 1)
    return ["| " + " | ".join(cells) + " |" for cells in [columns, ruler, *rows]]


def machine(found: Document) -> list[str]:
    """Processor, features, and the peaks with their drift during the run."""
    about = found["machine"]
    features = ", ".join(about["features"]) or "none that matter"
    lines = [f"{about['processor']} ({features}), torch {about['torch']}, {about['threads']} thread.", ""]
    rows = [
        [name, f"{peak['peak'] / 1e9:.0f}", f"{100 * peak['spread']:.0f} %", str(len(peak["takes"]))]
        for name, peak in found["peak"].items()
    ]
    columns = ["precision", "matrix products, best, GFLOP/s", "worst take below best by", "takes"]
    had = f"This process had a core for {percent(found['had_core'])} of the time; a quiet machine gives it nearly all."
    return [*lines, *table(columns, rows), "", had]


def targets(found: Document) -> list[str]:
    """The targets and what was reached, at the main number of units."""
    rows = next(iter(found["steps"].values()))
    drawn = found["data"]["draw"]["median_s"] / min(row["median_s"] for row in rows.values())
    checked = [
        ("full bf16 step, share of bf16 peak", rows["ours bf16"]["share_of_peak"], 0.30, "at least 30 %, aim 45 %"),
        ("full fp32 step, share of fp32 peak", rows["ours fp32"]["share_of_peak"], 0.75, "at least 75 %"),
        ("full / frozen step, bf16", rows["ours bf16 frozen"]["full_by_this"], 1.4, "at least 1.4"),
        ("full / frozen step, fp32", rows["ours fp32 frozen"]["full_by_this"], 1.4, "at least 1.4"),
    ]
    lines = [
        [name, f"{value:.2f}" if "/" in name else percent(value), asked, "yes" if value >= least else "no"]
        for name, value, least, asked in checked
    ]
    lines.append(["drawing a batch, share of the fastest step", percent(drawn), "below 2 %", yes(drawn < 0.02)])
    return table(["target", "measured", "asked", "met"], lines)


def steps(rows: Document) -> list[str]:
    """The main table: one row a variant."""
    columns = ["variant", "ms (median)", "spread", "clean fp32 / this", "full / this", "GFLOP", "GFLOP/s", "of peak"]
    lines = [
        [
            name,
            f"{1e3 * row['median_s']:.1f}",
            percent(row["spread"]),
            f"{row['clean_by_this']:.2f}",
            f"{row['full_by_this']:.2f}" if "full_by_this" in row else "",
            *achieved(row),
        ]
        for name, row in rows.items()
    ]
    compiling = [f"{name}: {row['begin_s']:.0f} s" for name, row in rows.items() if "compiled" in name]
    note = f"{repetitions(rows)} Spread: between quartiles, of the median."
    note += f" Compiling took, {', '.join(compiling)}." if compiling else ""
    return [*table(columns, lines), "", f"{note} GFLOP: matrix products that were executed."]


def models(name: str, rows: Document) -> list[str]:
    """Steps of one model in both precisions."""
    columns = [name, "ms (median)", "spread", "of fp32's time", "GFLOP", "GFLOP/s", "of peak"]
    lines = [
        [variant, f"{1e3 * row['median_s']:.1f}", percent(row["spread"]), f"{row['of_fp32']:.2f}", *achieved(row)]
        for variant, row in rows.items()
    ]
    return table(columns, lines)


def widths(found: Document) -> list[str]:
    """bf16 over fp32 by embedding width; below 1 bf16 pays."""
    tables = {**found["models"], next(iter(found["widths"])): next(iter(found["steps"].values()))}
    columns = ["model", "width", "full, fp32 ms", "full, bf16 ms", "bf16 / fp32", "frozen, bf16 / fp32"]
    lines = [
        [
            name,
            str(width),
            *(f"{1e3 * tables[name][f'ours {precision}']['median_s']:.1f}" for precision in ("fp32", "bf16")),
            *(f"{tables[name][f'ours bf16{which}']['of_fp32']:.2f}" for which in ("", " frozen")),
        ]
        for name, width in sorted(found["widths"].items(), key=lambda item: item[1])
    ]
    return table(columns, lines)


def parts(values: Document) -> list[str]:
    """Shares by part, one column a model."""
    names = list(next(iter(values.values())))
    lines = [[name, *(f"{100 * shares[name]:.1f}" for shares in values.values())] for name in names]
    note = (
        "Own time of operators in torch's profiler, which slows small ones down. The library's functions are wrapped "
        "in regions; operators of the backward pass count for the forward operator that they differentiate."
    )
    return [*table(["part", *values], lines), "", note]


def memory(found: Document) -> list[str]:
    """MiB by variant, and the most that the whole run held."""
    lines = [[name, f"{size / MIB:.0f}"] for name, size in found["memory"].items()]
    note = f"Largest resident memory of the whole run, all variants in one process: {found['max_rss'] / MIB:.0f} MiB."
    return [*table(["variant", "MiB"], lines), "", note]


def cost(name: str, values: Document) -> list[str]:
    """Time along one axis, and relative to its first value."""
    precisions = list(next(iter(values.values())))
    first = next(iter(values.values()))
    columns = [name, *(f"{precision}, {what}" for precision in precisions for what in ("ms", "of the first"))]
    lines = []
    for value, rows in values.items():
        cells = [value]
        for precision in precisions:
            median = rows[precision]["median_s"]
            cells += [f"{1e3 * median:.1f}", f"{median / first[precision]['median_s']:.2f}"]
        lines.append(cells)
    return [*table(columns, lines), "", repetitions(next(iter(values.values())))]


def achieved(row: Document) -> list[str]:
    """GFLOP executed, GFLOP/s, share of the peak."""
    return [f"{row['flops'] / 1e9:.3g}", f"{row['flops_per_s'] / 1e9:.3g}", percent(row["share_of_peak"])]


def repetitions(rows: Document) -> str:
    """How often each was measured."""
    least = min(row["repetitions"] for row in rows.values())
    return f"{least} interleaved repetition{'s' * (least > 1)}."


def percent(share: float) -> str:
    """0.305 -> 30 %."""
    return f"{100 * share:.1f} %" if share < 0.02 else f"{100 * share:.0f} %"


def yes(met: bool) -> str:
    """yes or no."""
    return "yes" if met else "no"
