"""The rules of the house, read from the sources: directions of imports, rooms without torch, one door to files.

Each rule is a function from sources to violations (one line each); beside the test that finds none in the library
stands one that finds what was planted.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "sessionwise"
FLOORS = {
    "errors": 0,
    "io": 1,
    "data": 2,
    "runs": 2,
    "model": 3,
    "scoring": 4,
    "analysis": 4,
    "training": 5,
    "selection": 6,
    "study": 7,
    "terminal": 1,
    "cli_data": 7,
    "cli_runs": 7,
    "cli": 8,
    "__main__": 9,
}
WITHOUT_TORCH = ("errors", "io", "data", "runs", "analysis")
OPTIONAL = {"h5py", "pyarrow", "pynwb", "one", "submitit", "distributed", "dask", "huggingface_hub"}
SHOWS_TIME = {"sessionwise.cli", "sessionwise.runs.progress"}

NEVER_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}
NEVER_NAMES = {
    "eval",
    "exec",
    "builtins.eval",
    "builtins.exec",
    "os.system",
    "os.popen",
    "pandas.read_pickle",
    "pandas.eval",
}
DOORS = {
    "h5py.File",
    "numpy.fromfile",
    "numpy.lib.format.open_memmap",
    "numpy.lib.format.read_array",
    "numpy.load",
    "numpy.memmap",
    "pandas.read_hdf",
    "torch.load",
}
WALL_CLOCK = {
    "time.time",
    "time.time_ns",
    "datetime.date.today",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
}


# ---- reading the sources -------------------------------------------------------------------------


def library_sources(folder: Path = ROOT / "src" / PACKAGE) -> dict[str, str]:
    """Text of every module by its dotted name; a room's ``__init__`` has the name of the room."""
    sources = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(folder).with_suffix("").parts]
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return sources


def imports(module: str, sources: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports, at any depth; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(sources[module])):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = imported_from(node, module, sources)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and called(node).rpartition(".")[2] in ("import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)


def imported_from(node: ast.ImportFrom, module: str, sources: Mapping[str, str]) -> str:
    """The absolute name behind ``from X import``, the dots of a relative import resolved."""
    is_package = any(name.startswith(f"{module}.") for name in sources)
    parents = module.split(".") if is_package else module.split(".")[:-1]
    start = parents[: len(parents) - node.level + 1] if node.level else []
    return ".".join([*start, *filter(None, [node.module])])


def called(node: ast.Call) -> str:
    """The dotted spelling of what a call calls, or nothing."""
    return ast.unparse(node.func) if isinstance(node.func, (ast.Name, ast.Attribute)) else ""


def own_imports(module: str, sources: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """The modules of the library among the imports: ``sessionwise.io.files.sha256`` is ``sessionwise.io.files``."""
    for line, name in imports(module, sources):
        if name.split(".")[0] == PACKAGE and name != f"{PACKAGE}.__version__":
            yield line, name if name in sources else name.rpartition(".")[0] or PACKAGE


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


# ---- rule 1: downward, and never in a circle -----------------------------------------------------


def upward_imports(sources: Mapping[str, str]) -> list[str]:
    """Imports of a room that is on no lower floor, of the façade below the top floor, and rooms without a floor."""
    found = []
    for module in sorted(set(sources) - {PACKAGE}):
        if room(module) not in FLOORS:
            found.append(f"{module}: room {room(module)!r} has no floor")
            continue
        for line, target in own_imports(module, sources):
            if not may_import(room(module), room(target)):
                found.append(f"{module}:{line} imports {target}")
    return found


def may_import(importer: str, imported: str) -> bool:
    top = max(FLOORS.values())
    if imported == "":
        return FLOORS[importer] >= FLOORS["cli"]
    return importer == imported or FLOORS.get(imported, top) < FLOORS[importer]


def circles(sources: Mapping[str, str]) -> list[str]:
    """Circles among the modules, the façade left out; each is named once."""
    graph = {
        module: sorted({t for _, t in own_imports(module, sources)} - {module, PACKAGE})
        for module in set(sources) - {PACKAGE}
    }
    finished: set[str] = set()
    found = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in finished:
            for target in graph.get(module, []):
                visit(target, [*path, module])
            finished.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def test_imports_go_down_and_never_in_a_circle() -> None:
    sources = library_sources()
    assert len(sources) > 3
    assert upward_imports(sources) == []
    assert circles(sources) == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("sessionwise.io.files", "from sessionwise.data.session import Session"),
        ("sessionwise.io.files", "def f():\n    import sessionwise.training.loop"),
        (
            "sessionwise.data.store",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sessionwise.model import ndt",
        ),
        ("sessionwise.data.store", "from sessionwise import runs"),
        ("sessionwise.runs.launch", "from ..data.session import Session"),
        ("sessionwise.analysis.report", "from sessionwise.scoring import likelihood"),
        ("sessionwise.model.ndt", "import importlib\nimportlib.import_module('sessionwise.training.loop')"),
        ("sessionwise.selection.ranking", "import sessionwise as sw"),
        ("sessionwise.attic.old", ""),
    ],
)
def test_an_upward_import_is_found(module: str, text: str) -> None:
    others = ["data", "data.session", "model", "model.ndt", "runs", "scoring", "scoring.likelihood", "training.loop"]
    sources = {PACKAGE: "", **{f"{PACKAGE}.{name}": "" for name in others}, module: text}
    assert len(upward_imports(sources)) == 1


def test_the_way_down_is_free() -> None:
    sources = {
        PACKAGE: "from sessionwise.selection import ranking",
        "sessionwise.cli": "import sessionwise\nfrom sessionwise.selection import ranking",
        "sessionwise.selection": "",
        "sessionwise.selection.ranking": "from . import sets\nfrom ..runs import spec\nimport sessionwise.data.store",
        "sessionwise.selection.sets": "",
        "sessionwise.runs": "",
        "sessionwise.runs.spec": "",
        "sessionwise.data.store": "",
    }
    assert upward_imports(sources) == []
    assert circles(sources) == []


def test_a_circle_is_found() -> None:
    sources = {
        "sessionwise.runs": "",
        "sessionwise.runs.a": "from sessionwise.runs import b",
        "sessionwise.runs.b": "def f():\n    from .c import x",
        "sessionwise.runs.c": "from sessionwise.runs.a import y",
    }
    assert circles(sources) == ["sessionwise.runs.a -> sessionwise.runs.b -> sessionwise.runs.c -> sessionwise.runs.a"]


# ---- rule 2: rooms without torch; extras only where they are used --------------------------------


def named_torch(sources: Mapping[str, str]) -> list[str]:
    """Torch named in a room that must do without it, wherever the import stands."""
    return [
        f"{module}:{line} imports {name}"
        for module in sorted(sources)
        if room(module) in WITHOUT_TORCH
        for line, name in imports(module, sources)
        if name.split(".")[0] == "torch"
    ]


def optional_at_import(sources: Mapping[str, str]) -> list[str]:
    """Optional packages imported at the top of a module: it could not be imported without the extra."""
    found = []
    for module, text in sorted(sources.items()):
        top = [node for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        for node in top:
            names = [str(node.module)] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"{module}:{node.lineno} imports {name}" for name in names if name.split(".")[0] in OPTIONAL]
    return found


def loads_torch(modules: list[str], folder: Path) -> bool:
    """Whether a new interpreter that imports these modules ends up with torch, through whatever it was."""
    code = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1] == "True"


def test_rooms_do_without_torch() -> None:
    sources = library_sources()
    assert named_torch(sources) == []
    assert not loads_torch([PACKAGE, *(m for m in sources if room(m) in WITHOUT_TORCH)], ROOT / "src")


def test_extras_are_imported_where_they_are_used() -> None:
    assert optional_at_import(library_sources()) == []


def test_torch_is_found_by_name() -> None:
    planted = {"sessionwise.runs.a": "def f():\n    from torch import nn", "sessionwise.model.ndt": "import torch"}
    assert named_torch(planted) == ["sessionwise.runs.a:2 imports torch.nn"]


def test_torch_is_found_behind_another_module(tmp_path: Path) -> None:
    for name, text in {"torch": "", "between": "import torch", "innocent": "import between", "other": ""}.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert loads_torch(["innocent"], tmp_path)
    assert not loads_torch(["other"], tmp_path)


def test_an_extra_at_the_top_is_found() -> None:
    planted = {"sessionwise.data.a": "import h5py", "sessionwise.data.b": "def f():\n    import h5py"}
    assert optional_at_import(planted) == ["sessionwise.data.a:1 imports h5py"]


# ---- rules 3 and 4: one door to files, no code from data, the wall clock for display only --------


def used_names(text: str) -> set[str]:
    """Full dotted name of everything that a module uses: import aliases, assignments and getattr undone."""
    tree = ast.parse(text)
    aliases = import_aliases(tree)
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and len(node.targets) == 1]
    for _ in range(3):
        for assignment in assigned:
            target, value = assignment.targets[0], assignment.value
            if isinstance(target, ast.Name) and isinstance(value, (ast.Name, ast.Attribute)):
                if dotted(value, aliases) != target.id:
                    aliases.setdefault(target.id, dotted(value, aliases))
    used = {dotted(node, aliases) for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute, ast.Call))}
    return used | set(aliases.values())


def import_aliases(tree: ast.Module) -> dict[str, str]:
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                aliases[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and not node.level:
            aliases.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return aliases


def dotted(node: ast.expr, aliases: Mapping[str, str]) -> str:
    """``np.load`` as ``numpy.load``; ``getattr(np, "load")`` too; a question mark for what is no name."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, aliases)}.{node.attr}"
    if isinstance(node, ast.Call) and called(node) == "getattr" and isinstance(node.args[1], ast.Constant):
        return f"{dotted(node.args[0], aliases)}.{node.args[1].value!s}"
    return "?"


def forbidden(sources: Mapping[str, str]) -> list[str]:
    """What no module may use, what only ``io`` may use, and the wall clock where nothing is displayed."""
    found = set()
    for module, text in sources.items():
        doors = set() if room(module) == "io" else DOORS
        clocks = set() if module in SHOWS_TIME else WALL_CLOCK
        names = NEVER_NAMES | doors | clocks
        found |= {f"{module} uses {name}" for name in used_names(text) & names}
        loaded = {name for _, name in imports(module, sources)}
        found |= {f"{module} imports {name}" for name in loaded if name.split(".")[0] in NEVER_MODULES}
        found |= {f"{module} imports {name}" for name in loaded if name.endswith(".*")}
        found |= {f"{module} {flag}" for flag in dangerous_flags(text)}
    return sorted(found)


def dangerous_flags(text: str) -> Iterator[str]:
    """Keywords that open a door wherever they stand: a shell, pickled arrays, pickled weights, foreign code."""
    dangerous = {"shell": True, "allow_pickle": True, "weights_only": False, "trust_remote_code": True}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.keyword) and node.arg in dangerous:
            if not (isinstance(node.value, ast.Constant) and node.value.value is not dangerous[node.arg]):
                yield f"sets {node.arg}={ast.unparse(node.value)}"


def test_nothing_forbidden_is_used() -> None:
    assert forbidden(library_sources()) == []


@pytest.mark.parametrize(
    "text",
    [
        "import numpy as np\nx = np.load('a')",
        "import numpy\nf = numpy.load",
        "from numpy import load as fetch",
        "def f():\n    import numpy as n\n    m = n\n    return m.load('a')",
        "import numpy as np\ngetattr(np, 'load')('a')",
        "from numpy.lib import format as f\nf.open_memmap('a')",
        "import torch as t\nt.load('a')",
        "from torch import load",
        "import h5py as h\nh.File('a')",
        "from h5py import File as F",
        "from numpy import *",
        "import pickle",
        "from pickle import loads",
        "import importlib\nimportlib.import_module('pickle')",
        "import yaml\nyaml.load('a')",
        "eval('1')",
        "run = exec",
        "import builtins\nbuiltins.eval('1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nsubprocess.run('ls', shell=yes)",
        "import os\nos.system('ls')",
        "read(path, allow_pickle=True)",
        "import time\nt = time.time()",
        "from time import time as now",
        "from datetime import datetime\nd = datetime.now()",
        "import datetime as dt\nd = dt.datetime.utcnow()",
    ],
)
def test_a_forbidden_use_is_found(text: str) -> None:
    assert len(forbidden({"sessionwise.data.planted": text})) >= 1


def test_what_is_allowed_stays_allowed() -> None:
    calls = ["model.eval()", "json.load(f)", "time.monotonic()", "store.load('a')", "run(c, shell=False)", "load(f)"]
    text = "\n".join(["import json, time", "from .files import load", *calls, "read(a, allow_pickle=False)"])
    assert forbidden({"sessionwise.data.harmless": text}) == []
    door = "import numpy as np\nimport h5py\nnp.load('a', allow_pickle=False)\nh5py.File('a')"
    assert forbidden({"sessionwise.io.arrays": door}) == []
    assert forbidden({"sessionwise.io.arrays": "import pickle", "sessionwise.io.b": "eval('1')"}) != []
    assert forbidden({"sessionwise.runs.progress": "import time\ntime.time()"}) == []


# ---- pages and commands --------------------------------------------------------------------------

DECISIONS = ROOT / "docs" / "decisions"
SECTIONS = ["Context", "Decision", "Consequences", "Where", "How to change"]


def unequal_index(index: str, pages: set[str]) -> set[str]:
    """Pages that the index names and nobody wrote, and pages that the index forgets."""
    return set(re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", index)) ^ pages


def test_the_index_of_decisions_is_complete() -> None:
    pages = {path.name for path in DECISIONS.glob("*.md")} - {"README.md"}
    assert len(pages) >= 20
    assert unequal_index((DECISIONS / "README.md").read_text(encoding="utf-8"), pages) == set()
    for page in sorted(pages):
        headings = re.findall(r"^## (.+)$", (DECISIONS / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert headings == SECTIONS, page


def stale_mentions(page: str, modules: set[str], keys: set[str]) -> list[str]:
    """Modules and settings that a page names and the library does not have."""
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", page)) - modules
    return sorted(named) + sorted(set(re.findall(r"--set ([a-z_.]+)=", page)) - keys)


def test_the_decisions_name_what_exists() -> None:
    from sessionwise.training.presets import known_keys

    modules = {str(path.relative_to(ROOT / "src" / PACKAGE)) for path in (ROOT / "src" / PACKAGE).rglob("*.py")}
    pages = {path.name: path.read_text(encoding="utf-8") for path in DECISIONS.glob("0*.md")}
    stale = {name: stale_mentions(text, modules, set(known_keys())) for name, text in pages.items()}
    assert {name: mentions for name, mentions in stale.items() if mentions} == {}


def test_a_stale_mention_is_found() -> None:
    page = "`io/files.py` and `io/gone.py`, `--set train.lr=1`, `--set train.gone=2`"
    assert stale_mentions(page, {"io/files.py"}, {"train.lr"}) == ["io/gone.py", "train.gone"]


def test_a_forgotten_page_is_found() -> None:
    assert unequal_index("[a](0001-a.md) [b](0002-b.md)", {"0001-a.md", "0003-c.md"}) == {"0002-b.md", "0003-c.md"}


def code_lines(markdown: str) -> list[str]:
    """Lines of fenced code that start a command of ours, prompts and comments taken off."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"^\$ ", "", line.partition(" #")[0]).strip() for line in "\n".join(blocks).splitlines()]
    return [line for line in lines if re.match(r"(make|sessionwise) ", line)]


def unknown_targets(lines: list[str], makefile: str) -> list[str]:
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    words = [line.split()[1] for line in lines if line.startswith("make ")]
    return [word for word in words if "=" not in word and word not in targets]


def help_of(line: str) -> subprocess.CompletedProcess[str]:
    """What the command says of itself; a command or sub-command that does not exist ends with an error."""
    words = []
    for word in line.split()[1:]:
        if word.startswith("-"):
            break
        words.append(word)
    start = "import sys; from sessionwise.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", start, *words, "--help"], capture_output=True, text=True, timeout=120)


def test_the_commands_of_the_pages_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    lines = [line for page in pages for line in code_lines(page.read_text(encoding="utf-8"))]
    assert unknown_targets(lines, (ROOT / "Makefile").read_text(encoding="utf-8")) == []
    ours = {
        " ".join(line.split()[:3]) if line.split()[1] in ("data",) else " ".join(line.split()[:2]): line
        for line in lines
    }
    for command, line in sorted(ours.items()):
        if command.startswith("sessionwise "):
            assert help_of(line).returncode == 0, line


def test_an_unknown_target_is_found() -> None:
    lines = code_lines("text\n```\n$ make dmeo\nmake test # words\nls\n```\nmake nothing\n")
    assert lines == ["make dmeo", "make test"]
    assert unknown_targets(lines, "test: a\n\tb\n") == ["dmeo"]
