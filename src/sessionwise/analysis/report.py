"""The report of a ranking: one offline page, its numbers beside it as JSON, its figures as SVG, PDF and PNG.

The page loads nothing: figures are data URIs, there is no script that runs, and ids from recordings are escaped. The
same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sessionwise.analysis import figures, pages, summary
from sessionwise.analysis.pages import drop_old_files, environments, flat, write_figure, write_page
from sessionwise.analysis.pictures import find_picture
from sessionwise.analysis.summary import (
    agreement_between_heldout,
    check_ranking,
    done_rows,
    has_one_seed,
    missing_rows,
    overlap_between_heldout,
    require_finite,
    summarise,
)
from sessionwise.errors import UsageError
from sessionwise.io.files import folder_name, read_sealed, sealed_files, write_bytes, write_json

Ranking = Mapping[str, Any]

CAPTIONS = {
    "scores": "Transfer score of each session's frozen core (Fig. A1 of the paper). Bars: 80 % and 95 % intervals over "
    "resampled validation trials, plus the variance between seeds that moves cores apart. They compare the sessions "
    "with each other: what all cores of a seed share is not in them. The baseline is compared in the table of "
    "differences, which counts it. Open points: single seeds. Bands: range over seeds.",
    "differences": "Paired differences with 95 % intervals over trials and seeds. Cores are chosen on other trials and "
    "seeds than they are judged on. Filled: the interval leaves out zero.",
    "seeds": "One seed against another. Their rank correlation is the noise ceiling of a ranking from one seed.",
    "trials": "Score against trials in the session. A strong relation may mean large rather than close. Bars: 80 %.",
    "units": "Score against units in the session. Bars: 80 % intervals.",
    "truth": "Score against the true closeness in bins of latency (0 = the same; simulated sessions). Bars: 80 %.",
    "horizon": "Score against bins ahead, the last bins of each trial masked at once. Mean over seeds.",
    "curves": "Validation score during training. A curve that still climbs at its end was not trained to the end.",
    "comparison": "Test score of models pretrained on each selection. Bars: SD over seeds. Open points: single seeds.",
    "overlap": "Sessions in the top k for every held-out session (Fig. A2 of the paper). Dashed and band: expectation "
    "and 95 % of the draws for lists in random order, one k at a time. Above the band: what the rankings share.",
}
ONE_SEED_CAPTIONS = {
    "scores": "Transfer score of each session's frozen core (Fig. A1 of the paper). Bars: 80 % and 95 % intervals over "
    "resampled validation trials. They compare the sessions with each other: what all cores of a seed share is not in "
    f"them. {summary.ONE_SEED.capitalize()}.",
    "differences": "Paired differences with 95 % intervals over trials. Cores are chosen on other trials than they are "
    f"judged on. None is filled, since none is judged. {summary.ONE_SEED.capitalize()}.",
    "horizon": "Score against bins ahead, the last bins of each trial masked at once. One seed.",
    "comparison": f"Test score of models pretrained on each selection. {summary.ONE_SEED.capitalize()}.",
}


def report_of_study(study: Path) -> Path:
    """Write ``STUDY/report`` from the rankings (and the demo's comparison) that the study holds."""
    found = sorted(Path(study).glob("rankings/*/*/ranking.json"))
    if not found:
        remedy = "For example: sessionwise rank STORE --heldout ID --to STUDY"
        raise UsageError(str(study), "holds no ranking", "a folder that a ranking was written to", remedy)
    comparison = Path(study) / "comparison.json"
    stored = read_sealed(comparison) if comparison.exists() else None
    rankings = [check_ranking(read_sealed(path), str(path)) for path in found]
    return write_report(Path(study) / "report", rankings, stored, study=Path(study))


def write_report(
    folder: Path,
    rankings: Sequence[Ranking],
    comparison: Mapping[str, Any] | None = None,
    *,
    study: Path | None = None,
) -> Path:
    """Write ``folder/index.html``, ``report.json`` and ``figures/``; returns the page's path.

    rankings: what ``ranking.json`` holds, one a held-out session or method; comparison: ``comparison.json``;
    study: the folder that holds pictures of the held-out recordings.
    Raises DataError when a number anywhere is not finite.
    """
    for ranking in rankings:
        require_finite(ranking, f"ranking of {ranking.get('heldout')}")
    require_finite(comparison or {}, "comparison")
    with sealed_files(Path(folder)):
        return _write_report(Path(folder), rankings, comparison, study)


def _write_report(
    folder: Path, rankings: Sequence[Ranking], comparison: Mapping[str, Any] | None, study: Path | None
) -> Path:
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    sections = _sections(folder, rankings, study)
    compared = _figure(folder, "comparison", comparison, "comparison") if comparison else None
    agreement = agreement_between_heldout(rankings) if len(rankings) > 1 else None
    overlaps = overlap_between_heldout(rankings)
    shared = [_figure(folder, "overlap", overlap, f"overlap-{i}") for i, overlap in enumerate(overlaps, start=1)]
    every = [*(figure for section in sections for figure in section["drawn"]), compared, *shared]
    written = [f"{figure['file']}.{form}" for figure in every if figure for form in pages.FORMS]
    written += [f"{section['picture']['file']}.png" for section in sections if section["picture"]]
    drop_old_files(folder / "figures", written, pages.FORMS)
    data = {
        "rankings": list(rankings),
        "summaries": [section["summary"] for section in sections],
        "agreement": agreement,
        "overlap": overlaps,
        "comparison": comparison,
    }
    write_json(folder / "report.json", data)
    shown: dict[str, Any] = {
        "sections": sections,
        "comparison": comparison,
        "compared": compared,
        "agreement": agreement,
        "in_bits": bool(comparison) or any("score_label" not in ranking for ranking in rankings),
    }
    shown["overlaps"] = list(zip(overlaps, shared, strict=True))
    return write_page(folder / "index.html", "report.html.j2", shown, data)


def _sections(folder: Path, rankings: Sequence[Ranking], study: Path | None) -> list[dict[str, Any]]:
    """A section for each ranking; a recording is pictured once, however many methods ranked the pool for it."""
    sections: list[dict[str, Any]] = []
    pictured = set()
    for i, ranking in enumerate(rankings):
        recording = tuple(ranking.get(name) for name in ("heldout", "split_seed", "split"))
        place = None if recording in pictured else study
        sections.append(_section(folder, ranking, _prefix(i, ranking, rankings), place))
        pictured |= {recording} if sections[-1]["picture"] else set()
    return sections


def _section(folder: Path, ranking: Ranking, prefix: str, study: Path | None) -> dict[str, Any]:
    every = {name: _figure(folder, name, ranking, f"{prefix}{name}") for name in figures.FIGURES}
    drawn = {name: figure for name, figure in every.items() if figure}
    return {
        "ranking": ranking,
        "summary": summarise(ranking),
        "done": done_rows(ranking),
        "missing": missing_rows(ranking),
        "drawn": list(drawn.values()),
        "first": drawn.get("scores"),
        "beside": [drawn[name] for name in ("differences", "seeds") if name in drawn],
        "figures": [figure for name, figure in drawn.items() if name not in ("scores", "differences", "seeds")],
        "picture": _picture(folder, study, ranking, f"{prefix}recording") if study else None,
        "settings": flat(ranking["settings"]),
        "environments": environments(ranking["provenance"]),
        "split": {name: len(trials) for name, trials in _lists(ranking["provenance"].get("split", {}))},
    }


def _prefix(index: int, ranking: Ranking, rankings: Sequence[Ranking]) -> str:
    return f"{index + 1}-{folder_name(ranking['heldout'])}-" if len(rankings) > 1 else ""


def _figure(folder: Path, name: str, result: Mapping[str, Any], file: str) -> dict[str, Any] | None:
    """Draw a figure into ``folder/figures`` in three forms; its SVG comes back as a data URI."""
    drawn = figures.draw(name, result)
    if drawn is None:
        return None
    caption = {**CAPTIONS, **(ONE_SEED_CAPTIONS if _one_seed(result) else {})}[name]
    if name == "scores" and result.get("score_label"):
        caption = f"Score of each session: {result['score_kind']}. Bars, where there are any: 80 % and 95 % intervals."
    return {"name": name, "caption": caption, **write_figure(folder, drawn, file)}


def _picture(folder: Path, study: Path, ranking: Ranking, file: str) -> dict[str, Any] | None:
    """The kept picture of the held-out recording, copied into ``folder/figures``."""
    found = find_picture(study, ranking)
    if found is None:
        return None
    write_bytes(folder / "figures" / f"{file}.png", found["content"])
    return {"name": "recording", "file": file, **found}


def _one_seed(result: Mapping[str, Any]) -> bool:
    """Whether a ranking, or a comparison, was trained with one seed."""
    arms = [arm["seed_scores"] for arm in result.get("arms") or ()]
    return has_one_seed(result) if "seeds" in result else all(len(scores) <= 1 for scores in arms)


def _lists(split: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    return [(name, value) for name, value in split.items() if isinstance(value, list)]
