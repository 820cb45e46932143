"""A study as a value: a strict recipe in TOML that holds the differences from the defaults.

    name = "my study"
    preset = "tiny"

    [data]
    store = "my-store"
    heldout = ["11_Hench_2017-06-18"]

    [study]
    seeds = [10, 20]
    sizes = [1, 2, 3, "all"]

    [controls]
    step_matched = true

Sections ``[model]``, ``[train]``, ``[finetune]``, ``[baseline]`` and ``[evaluation]`` change the preset's settings. A
recipe with a section ``[tuning]`` is no scaling study but a search for settings (``study/tuning.py``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sessionwise.data.splits import SPLITS, SplitKind
from sessionwise.errors import SessionwiseError, UsageError, raise_all
from sessionwise.io.files import canonical_json
from sessionwise.training.presets import PRESETS, Settings, nearest, without_default_split

SECTIONS = ("model", "train", "finetune", "baseline", "evaluation")
MAX_BYTES = 1_000_000

Whole = Annotated[int, Field(ge=0)]
Model = TypeVar("Model", bound=BaseModel)
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Span = tuple[float, float] | float


class Part(BaseModel):
    """A section of a recipe: unknown keys are refused, and so are values of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Simulated(Part):
    """Simulated sessions instead of a store; the names are those of ``simulate_pool``, and so is their meaning."""

    seed: Whole = 0
    n_sessions: Count = 10
    n_heldout: Count = 2
    shift: float = 5.0
    bad_share: float = 0.2
    n_trials: tuple[int, int] | int | None = None
    n_units: tuple[int, int] | int | None = None
    rate_hz: Span | None = None
    n_bins: int = 50
    bin_s: float = 0.02
    window_start_s: float = -0.2
    modulation: float = 1.0
    amplitude_sd: float = 0.5
    jitter_bins: float = 0.25


class Data(Part):
    """Where the sessions are and which are held out."""

    store: str | None = Field(None, description="folder of a prepared store, from the current directory")
    simulate: Simulated | None = Field(None, description="simulated sessions, made inside the study's folder")
    manifest: Literal["repeated_site"] | None = Field(None, description="sessions to plan with before they are there")
    heldout: tuple[str, ...] = Field((), description="ids; of simulated sessions and the manifest they are known")
    pool: str | tuple[str, ...] | None = Field(None, description="ids or a filter; by default all others")
    metadata: str | None = Field(None, description="CSV of more columns a session; its first column holds the ids")


class Design(Part):
    """Orders, sizes and seeds (protocol A12, A16, A17)."""

    seeds: tuple[Seed, ...] = (10, 20, 42)
    orders: tuple[Literal["ranked", "reverse_ranked", "random"], ...] = ("ranked", "reverse_ranked", "random")
    shuffles: Count = Field(3, description="random orders; shuffle i is trained with seeds[i mod n]")
    sizes: tuple[int | Literal["all"], ...] = (1, 2, 3, 4, 5, 10, 20, 30, 40, "all")
    top: Count = Field(5, description="the size that the headline claims are about; one of the sizes")
    references: tuple[Literal["psth", "glm"], ...] = Field((), description="more rows of the baseline table")
    split_seeds: tuple[Whole, ...] = Field((), description="the orders again with these other splits")


class ManyShuffles(Part):
    """Random sets of one small size, to place the ranked set among them."""

    size: Count
    n: Count = 20


class Controls(Part):
    """What tells an effect of choosing from its confounds (protocol C)."""

    random_core: bool = Field(True, description="an untrained frozen core")
    own_core: bool = Field(False, description="the frozen core of the baseline: trained on the held-out session itself")
    baseline_doubled: bool = Field(False, description="the baseline with twice the steps: had it converged?")
    step_matched: bool = Field(False, description="top and all, each with the steps of both, last checkpoint")
    trial_matched: tuple[Count, ...] = Field((), description="random sets with the trials of these ranked sets")
    other_targets: tuple[Count, ...] = Field((), description="these sizes in the order of the other held-out sessions")
    many_shuffles: ManyShuffles | None = None
    fresh_seeds: tuple[Seed, ...] = Field((), description="the best session pretrained again with these seeds")
    full_finetune: tuple[int | Literal["all"], ...] = Field(
        (), description="ranked sets of these sizes, core not frozen"
    )
    minus_worst: tuple[Count, ...] = Field((), description="all but the worst k")
    transfer_matrix: bool = Field(False, description="every core on every session, validation trials")


class Recipe(Part):
    """A scaling study. ``settings`` are the preset's after the recipe's sections."""

    name: str = Field("study", min_length=1, max_length=200)
    preset: str = "small"
    split_seed: Whole = 0
    split: SplitKind = "random"
    data: Data = Data()
    study: Design = Design()
    controls: Controls = Controls()
    settings: Settings

    def identity(self) -> dict[str, Any]:
        """What makes two recipes the same study: everything but its name and where the store lies."""
        return without_default_split(self.model_dump(mode="json", exclude={"name": True, "data": {"store"}}))


def read_recipe_file(path: str | Path) -> dict[str, Any]:
    """The TOML of a recipe as a dictionary; UsageError names the line of what is no TOML."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(str(path), f"cannot be read ({error.strerror})", "a recipe (TOML)", "See recipes/") from error
    if len(raw) > MAX_BYTES:
        raise UsageError(str(path), f"has {len(raw)} bytes", f"a recipe of at most {MAX_BYTES} bytes")
    if not raw.strip():
        raise UsageError(str(path), "is empty", "a recipe (TOML)", "See recipes/demo.toml")
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(str(path), f"is not UTF-8 (byte {error.start})", "a text file in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(str(path), f"is no TOML: {error}", "a recipe (TOML)", "See recipes/demo.toml") from error
    except RecursionError as error:
        raise UsageError(str(path), "is nested too deeply", "a recipe (TOML)", "See recipes/demo.toml") from error


def load_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe; every unknown key and wrong value is named in one answer.

    changes: ``section.key=value`` with the value as TOML writes it, for example ``data.simulate.seed=1``.
    """
    return make_recipe(changed(read_recipe_file(path), changes), str(path))


def changed(value: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe's TOML with some keys set; a value that is no TOML is taken as text."""
    result: dict[str, Any] = deepcopy(dict(value))
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals or not path.strip():
            raise UsageError("--set", f"{change!r} has no '='", "section.key=value", "For example train.lr=3e-4")
        *sections, name = path.strip().split(".")
        part = result
        for section in sections:
            part = part.setdefault(section, {})
            if not isinstance(part, dict):
                raise UsageError("--set", f"{path!r}: {section} is no section", "section.key=value")
        part[name] = _toml_value(text.strip())
    return result


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def make_recipe(value: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from its TOML as a dictionary.

    Raises UsageError (or Problems, all of them at once) for unknown keys, with the nearest known one, and for values
    of the wrong type or range.
    """
    recipe, problems = try_recipe(value, where)
    raise_all(problems)
    assert recipe is not None
    return recipe


def try_recipe(value: Mapping[str, Any], where: str = "recipe") -> tuple[Recipe | None, list[SessionwiseError]]:
    """The recipe and what is wrong with it; the recipe is then what is left without the wrong keys, if anything is.

    So that a leak is found in a recipe that also has a misspelt key, and both are said at once.
    """
    return try_model(Recipe, value, where)


def try_model(
    model: type[Model], value: Mapping[str, Any], where: str = "recipe"
) -> tuple[Model | None, list[SessionwiseError]]:
    """``try_recipe`` for any kind of recipe: a model with keys ``preset``, ``split_seed``, ``split``, ``settings``."""
    problems: list[SessionwiseError] = []
    rest: dict[str, Any] = deepcopy({name: part for name, part in value.items() if name not in SECTIONS})
    name = rest.get("preset", "small")
    if not isinstance(name, str) or name not in PRESETS:
        needed = f"one of {', '.join(PRESETS)}"
        problems.append(UsageError(f"{where}: preset", f"{name!r}", needed, nearest(str(name), PRESETS)))
        name = rest["preset"] = "small"
    if "settings" in rest:
        problems.append(UsageError(where, "unknown key 'settings'", f"the sections {', '.join(SECTIONS)}"))
    settings = _sections(value, name, where, problems)
    if isinstance(value.get("split_seed"), int):
        settings["split_seed"] = value["split_seed"]
    if value.get("split") in SPLITS:
        settings["split"] = value["split"]
    checked = validate_strictly(Settings, settings, where, problems)
    rest["settings"] = (checked or PRESETS[name]).settled().model_dump()
    return validate_strictly(model, rest, where, problems), problems


def _sections(value: Mapping[str, Any], preset: str, where: str, problems: list[SessionwiseError]) -> dict[str, Any]:
    """The preset's values with those of the recipe's sections."""
    values = PRESETS[preset].model_dump()
    for section in SECTIONS:
        part = value.get(section, {})
        if isinstance(part, Mapping):
            values[section] = {**values[section], **deepcopy(dict(part))}
        else:
            problems.append(UsageError(f"{where}: {section}", f"{part!r:.80}", f"a section [{section}]"))
    return values


def validate_strictly(
    model: type[Model], value: dict[str, Any], where: str, problems: list[SessionwiseError]
) -> Model | None:
    """Validate as JSON, where a text is no number and a list is a tuple.

    Every problem is added to ``problems``, and its key taken out of ``value``: the model of what is left comes back, or
    None where nothing can be made of it.
    """
    for _ in range(3):
        try:
            return model.model_validate_json(canonical_json(value), strict=True)
        except (TypeError, ValueError, RecursionError) as error:
            if not isinstance(error, ValidationError):
                found = f"holds a value that is no text, number or list ({error})"
                problems.append(UsageError(where, found, "plain values"))
                return None
            problems += _problems(error, where, model)
            for entry in error.errors():
                _drop(value, entry["loc"])
    return None


def _drop(value: dict[str, Any], place: tuple[int | str, ...]) -> None:
    """Take out a key, and of a list the whole list."""
    *sections, name = [part for part in place if isinstance(part, str) and not _is_union_member(part)] or [""]
    for section in sections:
        inner = value.get(section)
        if not isinstance(inner, dict):
            value.pop(section, None)
            return
        value = inner
    value.pop(name, None)


def _problems(error: ValidationError, where: str, model: type[BaseModel]) -> list[SessionwiseError]:
    """One line a key: several members of a union complain about the same value."""
    found: dict[str, SessionwiseError] = {}
    for entry in error.errors():
        key = ".".join(str(part) for part in entry["loc"] if not _is_union_member(str(part)))
        if entry["type"] == "extra_forbidden":
            known = _keys_beside(model, entry["loc"])
            near = nearest(str(entry["loc"][-1]), known)
            found.setdefault(key, UsageError(where, f"unknown key {key!r}", f"one of {', '.join(known)}", near))
        else:
            needed = entry["msg"][:1].lower() + entry["msg"][1:]
            found.setdefault(
                key, UsageError(f"{where}: {key}", f"{entry['input']!r:.80}", needed.removeprefix("input should be "))
            )
    return list(found.values())


def _is_union_member(part: str) -> bool:
    return part.startswith(("tuple[", "literal[", "constrained-")) or part in ("int", "str", "float")


def _keys_beside(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys that the section of a misspelt key knows."""
    for name in place[:-1]:
        field = model.model_fields.get(str(name))
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    known = [name for name in model.model_fields if name != "settings"]
    return [*known, *SECTIONS] if "settings" in model.model_fields else known
