"""Memory that ends under a training (P7): the run is lost with its cause, and a new worker does it again."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from small_rank import committed, ended, is_whole, training_under_way

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux to limit another process"),
]


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_worker_without_memory(small_rank, tmp_path, kind):
    study = tmp_path / "study"
    process = small_rank.start(study)
    with training_under_way(process, study, kind) as moment:
        before = committed(study)
        allow_no_more(moment.pid)
    code, said = ended(process)
    assert code == 0 and "lost (out of memory" in said and "Traceback" not in said, said
    is_whole(study, before, small_rank)


def allow_no_more(pid: int) -> None:
    """From now on the process may map no memory beyond what it has (RLIMIT_AS)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize(), resource.RLIM_INFINITY))
