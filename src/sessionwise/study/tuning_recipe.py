"""A recipe that searches settings (the paper's A.2): what is tried, and around which base.

    preset = "paper"

    [data]
    store = "my-store"
    heldout = ["never in a search"]

    [tuning]
    single = 3
    set_size = 10
    seeds = [10, 20]

    [tuning.grid]
    "train.lr" = [5e-5, 1e-4, 2e-4]

    [tuning.models]
    8M = { blocks = 3 }

The base is the preset with the recipe's sections ``[model]`` and ``[train]``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sessionwise.data.splits import SplitKind
from sessionwise.errors import Problems, SessionwiseError, UsageError, raise_all
from sessionwise.io.files import canonical_json
from sessionwise.selection.ranking import seed_problems
from sessionwise.study.recipe import (
    Data,
    Part,
    Recipe,
    Seed,
    Whole,
    read_recipe_file,
    try_model,
    validate_strictly,
)
from sessionwise.training.presets import Settings, known_keys, nearest, without_default_split

Value = bool | int | float | str
TUNED = ("model", "train")  # sections that a pretraining depends on
MODEL, GRID, BASE = "model", "grid", "base"  # names of axes beside keys such as train.lr, and of the base
MAX_VARIANTS = 1000


class Search(Part):
    """What is tried, on which sessions of the pool."""

    single: Whole | tuple[str, ...] = Field(3, description="single-session models: how many, or ids")
    set_size: Whole = Field(10, description="sessions of the one multi-session model; 0: none")
    seeds: tuple[Seed, ...] = Field((10, 20), description="each model is trained once a seed")
    search: Literal["one-at-a-time", "grid"] = Field("one-at-a-time", description="or all combinations")
    grid: dict[str, tuple[Value, ...]] = Field({}, description="key of [model] or [train] -> values")
    models: dict[str, dict[str, Value]] = Field({}, description="name -> changes of [model]")


class Tuning(Part):
    """A search for settings. ``settings``: the base, the preset's after the recipe's sections."""

    name: str = Field("tuning", min_length=1, max_length=200)
    preset: str = "small"
    split_seed: Whole = 0
    split: SplitKind = "random"
    data: Data = Data()
    tuning: Search = Search()
    settings: Settings

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same: everything but the name and where the store lies."""
        return without_default_split(self.model_dump(mode="json", exclude={"name": True, "data": {"store"}}))

    def as_recipe(self) -> Recipe:
        """The same sessions and settings as a scaling study has them; its design is empty of meaning here."""
        return Recipe.model_validate(
            {
                "name": self.name,
                "preset": self.preset,
                "split_seed": self.split_seed,
                "split": self.split,
                "data": self.data,
                "study": {"seeds": self.tuning.seeds, "sizes": (1, "all"), "top": 1},
                "settings": self.settings,
            }
        )


@dataclass(frozen=True)
class Variant:
    """One setting of everything: the base, or the base with a change. axis: which setting differs; value: to what."""

    name: str
    axis: str
    value: Any
    settings: Settings


@dataclass(frozen=True)
class Axis:
    """The values of one setting that are compared, the base's among them: value -> name of the variant."""

    name: str
    members: tuple[tuple[Any, str], ...]


def is_tuning(path: str | Path) -> bool:
    """Whether a recipe is a search for settings: it has a section ``[tuning]``."""
    return "tuning" in read_recipe_file(path)


def make_tuning(value: Mapping[str, Any], where: str = "recipe") -> Tuning:
    """A search from its TOML as a dictionary; UsageError, or Problems with all of them, for what cannot be meant."""
    tuning, problems = try_tuning(value, where)
    raise_all(problems)
    assert tuning is not None
    return tuning


def try_tuning(value: Mapping[str, Any], where: str = "recipe") -> tuple[Tuning | None, list[SessionwiseError]]:
    """The search without what is wrong with it, and what that is."""
    value = deepcopy({**value, **nested_grid(value, where)})
    search = value.get("tuning")
    if isinstance(search, dict) and isinstance(search.get("grid"), Mapping):
        search["grid"] = _flat_grid(search["grid"], where)
    tuning, problems = try_model(Tuning, value, where)
    if tuning is not None:
        tuning = _in_order(tuning, value)
        if not problems and not tuning.tuning.grid and not tuning.tuning.models:
            found, remedy = "is empty, and so is tuning.models", 'For example "train.lr" = [1e-4, 2e-4]'
            problems.append(UsageError(f"{where}: tuning.grid", found, "what to try", remedy))
        problems += [*_search_problems(tuning.tuning), *_variant_problems(tuning)]
    return tuning, problems


def _in_order(tuning: Tuning, value: Mapping[str, Any]) -> Tuning:
    """The keys of the grid and the models in the recipe's order, which checking them has sorted."""
    asked, search = value.get("tuning"), tuning.tuning
    parts = [asked.get(name) if isinstance(asked, Mapping) else None for name in ("grid", "models")]
    named, sizes = (part if isinstance(part, Mapping) else {} for part in parts)
    grid = {key: search.grid[key] for key in named if key in search.grid}
    models = {name: search.models[name] for name in sizes if name in search.models}
    return tuning.model_copy(update={"tuning": search.model_copy(update={"grid": grid, "models": models})})


def variants_of(tuning: Tuning) -> tuple[list[Variant], list[Axis]]:
    """The variants, each once, the base first; and the axes that compare them.

    Raises UsageError or Problems for keys and values that cannot be tried.
    """
    problems: list[SessionwiseError] = []
    listed = _listed(tuning.tuning)
    if tuning.tuning.search == "grid":
        listed = _combined(listed)
    base = Variant(BASE, BASE, None, tuning.settings)
    variants, axes = [base], []
    for axis, members in listed.items():
        added = [_variant(tuning, axis, value, changes, problems) for value, changes in members]
        axes.append(_axis(base, axis, added, problems))
        variants += [variant for variant in added if variant is not None and variant.settings != base.settings]
    raise_all(problems)
    return variants, axes


def nested_grid(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The section [tuning] with ``"train.lr"`` as ``train = { lr = .. }``, the form in which --set finds it."""
    search = value.get("tuning")
    if not isinstance(search, Mapping) or not isinstance(search.get("grid"), Mapping):
        return {}
    nested: dict[str, Any] = {}
    for key, values in _flat_grid(search["grid"], where).items():
        section, dot, name = key.partition(".")
        part = nested.setdefault(section, {}) if dot else nested
        part[name or section] = values
    return {"tuning": {**search, "grid": nested}}


def _flat_grid(grid: Mapping[str, Any], where: str = "recipe") -> dict[str, Any]:
    """``train = { lr = .. }`` and ``"train.lr" = ..`` both as the latter."""
    flat: dict[str, Any] = {}
    for name, part in grid.items():
        inner = {f"{name}.{key}": values for key, values in part.items()} if isinstance(part, Mapping) else {name: part}
        for key, values in inner.items():
            if key in flat:
                raise UsageError(f"{where}: tuning.grid", f"{key!r} is named twice", "each key once")
            flat[key] = values
    return flat


def _search_problems(search: Search) -> list[SessionwiseError]:
    problems = [UsageError("recipe: tuning.seeds", p.found, p.needed, p.remedy) for p in seed_problems(search.seeds)]
    if not search.seeds:
        problems.append(UsageError("recipe: tuning.seeds", "[]", "at least one seed"))
    if search.set_size == 1:
        problems.append(UsageError("recipe: tuning.set_size", "1", "0 or at least 2", "Use single for one session"))
    if not search.single and not search.set_size:
        problems.append(UsageError("recipe: tuning", "no single-session model and no set", "at least one of them"))
    return list(problems)


def _variant_problems(tuning: Tuning) -> list[SessionwiseError]:
    """What is wrong with the keys and values that are tried."""
    search = tuning.tuning
    problems = _grid_problems(search.grid) + _model_problems(search.models)
    if search.search == GRID:
        problems += _combination_problems(search)
    if problems:
        return problems
    try:
        variants_of(tuning)
    except Problems as error:
        return list(error.problems)
    except SessionwiseError as error:
        return [error]
    return []


def _grid_problems(grid: Mapping[str, Sequence[Value]]) -> list[SessionwiseError]:
    known = [key for key in known_keys() if key.split(".")[0] in TUNED]
    problems: list[SessionwiseError] = []
    for key, values in grid.items():
        if key not in known:
            hint = nearest(key, known)
            problems.append(UsageError("recipe: tuning.grid", f"unknown key {key!r}", "model.* or train.*", hint))
        elif not values:
            problems.append(UsageError(f"recipe: tuning.grid: {key}", "[]", "at least one value"))
    return problems


def _model_problems(models: Mapping[str, Mapping[str, Value]]) -> list[SessionwiseError]:
    known = [key.removeprefix("model.") for key in known_keys() if key.startswith("model.")]
    return [
        UsageError(f"recipe: tuning.models.{name}", f"unknown key {key!r}", "of [model]", nearest(key, known))
        for name, changes in models.items()
        for key in changes
        if key not in known
    ]


def _combination_problems(search: Search) -> list[SessionwiseError]:
    both = {f"model.{key}" for changes in search.models.values() for key in changes} & {*search.grid}
    problems: list[SessionwiseError] = [
        UsageError(f"recipe: tuning.grid: {key}", "is changed by tuning.models too", "one of them")
        for key in sorted(both)
    ]
    n = math.prod(len(members) for members in _listed(search).values())
    if n > MAX_VARIANTS:
        found, needed = f"{n:,} combinations", f"at most {MAX_VARIANTS:,}"
        problems.append(UsageError("recipe: tuning.search", found, needed, "Try fewer values"))
    return problems


Members = list[tuple[Any, dict[str, Value]]]


def _listed(search: Search) -> dict[str, Members]:
    """Axis -> values as they are named, each with its changes."""
    listed: dict[str, Members] = {}
    if search.models:
        models = search.models.items()
        listed[MODEL] = [(name, {f"model.{key}": v for key, v in changes.items()}) for name, changes in models]
    for key, values in search.grid.items():
        listed[key] = [(value, {key: value}) for value in values]
    return listed


def _combined(listed: Mapping[str, Members]) -> dict[str, Members]:
    """All combinations as the values of one axis."""
    members: Members = []
    for chosen in itertools.product(*listed.values()):
        names = [_name(axis, value) for axis, (value, _) in zip(listed, chosen, strict=True)]
        members.append((", ".join(names), {k: v for _, changes in chosen for k, v in changes.items()}))
    return {GRID: members}


def _variant(
    tuning: Tuning, axis: str, value: Any, changes: Mapping[str, Value], problems: list[SessionwiseError]
) -> Variant | None:
    values = tuning.settings.model_dump()
    for key, changed_value in changes.items():
        section, _, name = key.partition(".")
        values[section][name] = changed_value
    found: list[SessionwiseError] = []
    settings = validate_strictly(Settings, values, f"recipe: tuning: {_name(axis, value)}", found)
    problems += found
    return None if found or settings is None else Variant(_name(axis, value), axis, value, settings)


def _axis(base: Variant, name: str, added: Sequence[Variant | None], problems: list[SessionwiseError]) -> Axis:
    """Values in the order of the recipe; the base first where the recipe does not list it."""
    names: dict[str, str] = {}
    members: list[tuple[Any, str]] = []
    for variant in added:
        if variant is None:
            continue
        content = canonical_json(variant.settings.model_dump(mode="json")).decode()
        if content in names:
            found = f"{variant.name} is the same as {names[content]}"
            problems.append(UsageError("recipe: tuning", found, "each setting once"))
        names[content] = variant.name
        members.append((variant.value, BASE if variant.settings == base.settings else variant.name))
    if BASE not in [member for _, member in members]:
        members.insert(0, (_value_of(base.settings, name), BASE))
    return Axis(name, tuple(members))


def _value_of(settings: Settings, axis: str) -> Any:
    section, dot, name = axis.partition(".")
    return getattr(getattr(settings, section), name) if dot else BASE


def _name(axis: str, value: Any) -> str:
    if axis == GRID:
        return str(value)
    return f"{axis} {value}" if axis == MODEL else f"{axis} = {value}"
