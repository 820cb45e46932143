"""Put the commands of ``fake_slurm`` on the path."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from sessionwise import errors

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "srun")


def install(folder: Path, monkeypatch: Any) -> Path:
    """Scripts in ``folder/bin`` that run ``fake_slurm.py`` with this Python; returns where they keep their state."""
    home, commands = folder / "fake", folder / "bin"
    for path in (home, commands):
        path.mkdir()
    source = Path(__file__).with_name("fake_slurm.py").read_text()
    for name in COMMANDS:
        (commands / name).write_text(f"#!{sys.executable} -S\n{source}")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("FAKE_PATH", str(Path(errors.__file__).parents[1]))
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return home
