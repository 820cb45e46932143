"""docs/recipes.md names every key of a recipe with its default, and no other."""

import re
from pathlib import Path

import pytest

from sessionwise.study.recipe import Controls, Data, Design

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()


@pytest.mark.parametrize(("section", "model"), [("data", Data), ("study", Design), ("controls", Controls)])
def test_every_key_is_documented_with_its_default(section, model):
    part = PAGE.split(f"## `[{section}]`")[1].split("\n## ")[0]
    rows = {name: cells for name, cells in re.findall(r"^\| `(\w+)` \|([^|]*)\|", part, flags=re.MULTILINE)}
    assert set(rows) == set(model.model_fields)
    for name, field in model.model_fields.items():
        said = rows[name].strip().strip("`")
        if said and said not in ("all three", "all others"):
            shown = str(list(field.default)) if isinstance(field.default, tuple) else str(field.default).lower()
            assert said.replace('"', "'") == shown, name
        else:
            assert not field.default or name == "orders"
