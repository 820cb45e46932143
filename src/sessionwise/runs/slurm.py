"""Runs on a Slurm cluster (``--on slurm``), handed over by submitit: the driver's side.

Ready runs are put together into bundles, and bundles into a job array; ``slurm_task`` does them. The folder
``runs/.slurm/<array>/`` keeps what a later command needs to find the tasks again when this one dies: it follows those
that are still queued or running instead of submitting their runs once more. Slurm says whether a task lives; how a run
ended is believed as far as the store confirms it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sessionwise.errors import EnvironmentProblem, SessionwiseError, Stopped, UsageError
from sessionwise.io.files import make_folder, read_json, write_bytes, write_json
from sessionwise.runs.profile import Profile
from sessionwise.runs.slurm_task import FINAL, Bundle, in_hand, marks, reply_of
from sessionwise.runs.spec import RunSpec, is_key
from sessionwise.runs.store import RunStore
from sessionwise.runs.survey import ARRAYS, processes_ended
from sessionwise.runs.worker import ONE_THREAD

GONE_S = 60.0  # how long no command of Slurm may know a task before it is given up
SETTLE_S = 5.0  # a shared file system may show the last words of a task later than Slurm its end
LOOK_S = 1.0
_COMMAND_S = 60.0
_AGAIN_S = 15.0
_MOST_REFUSALS = 5
_MAX_EARLY_DEATHS = 3
_NEEDED = ("sbatch", "squeue", "scancel", "scontrol", "srun")
_FINAL = {"COMPLETED", "FAILED", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "BOOT_FAIL"}
_FINAL |= {"DEADLINE", "REVOKED", "VANISHED"}
_NOT_ITS_FAULT = {"PREEMPTED", "TIMEOUT", "DEADLINE", "CANCELLED", "COMPLETED"}  # no attempt if it came further
_WORDS = {
    "COMPLETED": "completed without a result",
    "OUT_OF_MEMORY": "was killed for memory; raise memory in the profile",
    "TIMEOUT": "ran out of time",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "lost its node while that started",
    "PREEMPTED": "was preempted",
    "DEADLINE": "missed its deadline",
    "VANISHED": "is unknown to Slurm",
}
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")
_PASSING = ("timed out", "temporarily", "unable to contact", "connection refused", "try again")
_LIMITS = ("maxsubmit", "job violates accounting/qos policy", "submitjob")
_DOWN = ("down, drained or reserved", "not available (down")  # a job would wait for them


class SlurmPlace:
    """A place for one run: first collected, then in a bundle."""

    def __init__(self, pool: SlurmPool) -> None:
        self.spec: RunSpec | None = None
        self.ready = False
        self.started = 0.0
        self.event: Any = None
        self._pool = pool

    def give(self, spec: RunSpec) -> None:
        """Collect a run for the next bundle, or find it in one that is on its way."""
        self.spec, self.started, self.ready = spec, time.monotonic(), False
        self._pool.collect(self)

    def take(self) -> tuple[RunSpec, float]:
        """The run that was in hand and the seconds since it was given; the place is gone."""
        assert self.spec is not None
        spec, self.spec = self.spec, None
        self._pool.forget(self)
        return spec, time.monotonic() - self.started


@dataclass(eq=False)
class _Task:
    """A bundle that was submitted: a task of an array."""

    folder: Path
    index: int
    name: str  # of the job: unlike its number nobody else ever has it
    keys: list[str]
    job: str = ""
    places: dict[str, SlurmPlace] = field(default_factory=dict)
    start: dict[str, str] = field(default_factory=dict)
    gone_since: float | None = None
    ended_since: float | None = None
    told_held: bool = False

    @property
    def id(self) -> str:
        """As Slurm's commands want it."""
        return f"{self.job}_{self.index}" if (self.folder.parent / "1").exists() else self.job


class SlurmPool:
    """Places on the cluster of ``profile``; Slurm is first asked when there is a run for it."""

    def __init__(self, profile: Profile, store: RunStore, work: str) -> None:
        self.profile, self.store, self.work = profile, store, work
        self._slurm = _Slurm()
        self._opened = False
        self._collected: list[SlurmPlace] = []
        self._tasks: list[_Task] = []
        self._adopted: dict[str, _Task] = {}  # key -> a task of an earlier command
        self._own: dict[Path, bool] = {}  # folder of an array -> whether all in it went well
        self._seconds: dict[str, list[float]] = {}  # kind -> of runs that ended
        self._next_look = self._next_question = self._next_submission = 0.0
        self._refusals = self._early_deaths = 0
        self._warnings: list[str] = []

    @property
    def at_work(self) -> list[SlurmPlace]:
        """Places with a run in hand."""
        return [*self._collected, *(place for task in self._tasks for place in task.places.values())]

    def free_worker(self) -> SlurmPlace | None:
        """A place while there are not too many; the first one looks whether the cluster can be used."""
        if not self._opened:
            self._slurm.refuse_without(self.profile, self.store.root)
            self._adopt()
            self._opened = True
        most = self.profile.tasks * self.profile.bundle_runs
        return SlurmPlace(self) if len(self.at_work) < most else None

    def collect(self, place: SlurmPlace) -> None:
        """Take a run: into a task of an earlier command that has it, or for the next bundles."""
        assert place.spec is not None
        task = self._adopted.pop(place.spec.key, None)
        if task is None:
            self._collected.append(place)
            return
        task.places[place.spec.key] = place
        if task not in self._tasks:
            self._tasks.append(task)
            task.start = marks(self.store, task.folder, task.keys)

    def forget(self, place: SlurmPlace) -> None:
        """Its run was taken back."""
        self._collected = [other for other in self._collected if other is not place]
        for task in self._tasks:
            task.places = {key: other for key, other in task.places.items() if other is not place}

    def messages(self, timeout_s: float) -> Iterator[tuple[SlurmPlace, dict[str, Any]]]:
        """Submit what was collected, wait, and tell what tasks said and which are lost."""
        if self._collected and time.monotonic() >= self._next_submission:
            self._submit()
        time.sleep(timeout_s)
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_S
            yield from self._listen()
        if time.monotonic() >= self._next_question and self._tasks:
            self._next_question = time.monotonic() + self.profile.poll_s
            yield from self._ask()
        self._tasks = [task for task in self._tasks if task.places]
        while self._warnings:
            yield SlurmPlace(self), {"warning": self._warnings.pop(0)}

    def stop(self, grace_s: float) -> Iterator[tuple[SlurmPlace, dict[str, Any]]]:
        """Take back what is queued, and ask the tasks that run to save and end."""
        for place in list(self._collected):
            place.take()
        for task in self._tasks:
            with suppress(SessionwiseError):
                write_bytes(task.folder / "stop", b"")
                self._own[task.folder.parent] = False
        self._slurm.end([task for task in self._tasks if task.job])
        end = time.monotonic() + grace_s
        while self.at_work and time.monotonic() < end:
            time.sleep(0.25)
            for place, message in self._listen(stopping=True):
                yield place, message
                if place.spec is not None and "reply" in message:
                    place.take()
            self._drop_ended()

    def close(self) -> None:
        """Remove the folders of arrays whose runs are all in the store; the others keep their logs."""
        ended = [folder for folder, well in self._own.items() if well and not self._in_use(folder)]
        end = time.monotonic() + SETTLE_S
        while ended and time.monotonic() < end and not all(_processes_ended(folder) for folder in ended):
            time.sleep(0.1)
        for folder in ended:
            if _processes_ended(folder):  # else a later command does it
                shutil.rmtree(folder, ignore_errors=True)

    def _in_use(self, folder: Path) -> bool:
        return any(task.folder.parent == folder and task.places for task in self._tasks)

    # -- submitting ---------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        """Put what was collected into bundles and hand them over, as far as there is room for tasks."""
        self._next_submission = time.monotonic() + min(self.profile.poll_s, _AGAIN_S)
        room = self.profile.tasks - len(self._tasks)
        if room <= 0:
            return
        bundles = self._bundles(room)
        folder = self.store.root / ARRAYS / uuid.uuid4().hex[:16]
        tasks = [self._write(folder, index, places) for index, places in enumerate(bundles)]
        about: dict[str, Any] = {"name": tasks[0].name, "work": self.work, "tasks": [task.keys for task in tasks]}
        write_json(folder / "array.json", {**about, "job": ""})  # before there is a job: a kill loses no task
        try:
            job = self._slurm.submit(self.profile, folder, tasks[0].name, [str(task.folder) for task in tasks])
        except _Refused as refused:
            job = self._found_or_later(refused, tasks[0].name, folder)
            if not job:
                return
        self._refusals = 0
        write_json(folder / "array.json", {**about, "job": job})
        for task, places in zip(tasks, bundles, strict=True):
            task.job, task.places = job, {place.spec.key: place for place in places if place.spec}
            self._collected = [place for place in self._collected if place not in places]
        self._tasks += tasks
        self._own[folder] = True

    def _bundles(self, room: int) -> list[list[SlurmPlace]]:
        """Runs of a kind and of similar length together, the longest first; all tasks get some before any gets many."""
        order = sorted(self._collected, key=_kind_and_length)
        even = -(-len(order) // room)
        bundles: list[list[SlurmPlace]] = []
        minutes = 0.0
        for place in order:
            assert place.spec is not None
            known = self._seconds.get(place.spec.kind)
            length = statistics.median(known) / 60 if known else 0.0
            last = bundles[-1] if bundles else []
            full = len(last) >= min(even, self.profile.bundle_runs) or minutes + length > self.profile.bundle_minutes
            if not last or full or _kind(last[0]) != _kind(place):
                bundles.append([])
                minutes = 0.0
            bundles[-1].append(place)
            minutes += length
        return bundles[:room]

    def _write(self, folder: Path, index: int, places: Sequence[SlurmPlace]) -> _Task:
        """A bundle on disk."""
        specs = [place.spec for place in places if place.spec is not None]
        task = _Task(folder / str(index), index, f"sessionwise-{folder.name}", [spec.key for spec in specs])
        make_folder(task.folder)
        path = [entry or os.getcwd() for entry in sys.path]
        runs = [spec.to_json() for spec in specs]
        write_json(
            task.folder / "bundle.json", {"runs": runs, "root": str(self.store.root), "work": self.work, "path": path}
        )
        task.start = marks(self.store, task.folder, task.keys)
        return task

    def _found_or_later(self, refused: _Refused, name: str, folder: Path) -> str:
        """A submission whose answer was lost on the way is found by its name; what may pass is tried again later."""
        if rows := [row for row in self._slurm.queue([name]) or [] if row.state not in _FINAL]:
            return rows[0].job
        shutil.rmtree(folder, ignore_errors=True)
        text = refused.text.lower()
        waits = any(words in text for words in _LIMITS) and bool(self._tasks)
        self._refusals += 0 if waits else 1
        if not waits and (not any(words in text for words in _PASSING) or self._refusals > _MOST_REFUSALS):
            needed = f"a job as in {self.profile.source}"
            raise EnvironmentProblem("sbatch", f"refused the job ({refused.text})", needed, "Correct it") from None
        self._next_submission = time.monotonic() + _AGAIN_S
        if self._refusals == 1:
            self._warnings.append(f"sbatch: {refused.text}; trying again")
        return ""

    def _adopt(self) -> None:
        """Find tasks of earlier commands that are still queued or running."""
        arrays: dict[str, tuple[Path, dict[str, Any]]] = {}
        for record in sorted((self.store.root / ARRAYS).glob("*/array.json")):
            with suppress(SessionwiseError, KeyError, TypeError):
                about = read_json(record)
                if about["work"] == self.work and all(is_key(key) for keys in about["tasks"] for key in keys):
                    arrays[str(about["name"])] = (record.parent, about)
        if not arrays:
            return
        rows = self._slurm.queue(list(arrays))
        if rows is None:
            raise EnvironmentProblem("squeue", self._slurm.said, "an answer from Slurm", "Run the same command later")
        for row in rows:
            folder, about = arrays[row.name]
            task = _Task(folder / str(row.index), row.index, row.name, about["tasks"][row.index], row.job)
            if row.state not in _FINAL and not (task.folder / "stop").exists():
                self._adopted |= {key: task for key in task.keys if not _said(task, key)}
                self._own[folder] = False
        for folder, about in arrays.values():
            keys = [key for task_keys in about["tasks"] for key in task_keys]
            if folder not in self._own and all(self.store.committed(key) for key in keys):
                shutil.rmtree(folder, ignore_errors=True)

    # -- listening ----------------------------------------------------------------------------------------------

    def _listen(self, stopping: bool = False) -> Iterator[tuple[SlurmPlace, dict[str, Any]]]:
        """What tasks wrote: how far runs are, and how they ended."""
        for task in self._tasks:
            now = in_hand(task.folder) if task.places else {}
            if place := task.places.get(now.get("run", "")):
                place.ready, self._early_deaths = True, 0
                if (event := now.get("event")) and event != place.event:
                    place.event = event
                    yield place, {"event": event}
            for key, place in list(task.places.items()):
                reply = reply_of(task.folder, key)
                if reply and (reply["reply"] in FINAL or stopping):
                    yield from self._told(task, place, reply)

    def _told(
        self, task: _Task, place: SlurmPlace, reply: dict[str, Any]
    ) -> Iterator[tuple[SlurmPlace, dict[str, Any]]]:
        for text in reply.pop("warnings", []):
            yield place, {"warning": text}
        if event := reply.pop("last", None):
            yield place, {"event": event}
        place.ready, self._early_deaths = True, 0
        if reply["reply"] == "done" and place.spec is not None:
            self._seconds.setdefault(place.spec.kind, []).append(sum(dict(reply.get("parts") or {}).values()))
        elif reply["reply"] != "stored":
            self._own[task.folder.parent] = False
        yield place, reply

    def _ask(self) -> Iterator[tuple[SlurmPlace, dict[str, Any]]]:
        """Which tasks Slurm still knows; those that ended without a word on all of their runs are lost."""
        states = self._slurm.states(self._tasks)
        if states is None:  # Slurm does not answer: that says nothing about the tasks
            return
        now = time.monotonic()
        for task in self._tasks:
            state = states.get((task.name, task.index), "")
            if state in ("HELD", "REQUEUE_HOLD", "SPECIAL_EXIT") and not task.told_held:
                task.told_held = True
                self._warnings.append(f"Slurm job {task.id}: is held; look at it: scontrol show job {task.id}")
            if not state:
                task.gone_since = now if task.gone_since is None else task.gone_since
                state = "VANISHED" if now - task.gone_since >= GONE_S else ""
            else:
                task.gone_since = None
            if state not in _FINAL:
                task.ended_since = None
                continue
            task.ended_since = now if task.ended_since is None else task.ended_since
            if now - task.ended_since >= SETTLE_S or state == "VANISHED":
                yield from self._listen()
                yield from self._bury(task, state)
            else:
                self._next_question = min(self._next_question, task.ended_since + SETTLE_S)

    def _bury(self, task: _Task, state: str) -> Iterator[tuple[SlurmPlace, dict[str, Any]]]:
        """A task ended, and some of its runs did not: whose attempt it was, and why."""
        if not task.places:
            return
        self._own[task.folder.parent] = False
        asked = (task.folder / "stop").exists()
        if state == "CANCELLED" and not asked:
            raise Stopped(
                f"Slurm job {task.id}", "was cancelled; nothing is lost", "", "Run the same command again: it goes on"
            )
        now, further = in_hand(task.folder), marks(self.store, task.folder, task.keys) != task.start
        words = "was stopped by another command" if asked else _WORDS.get(state, f"ended as {state}")
        reason = f"Slurm job {task.id} {words}{self._last_lines(task)}"
        self._count_early_deaths(reason, begun=bool(now) or asked or state == "PREEMPTED")
        for key, place in list(task.places.items()):
            begun = now.get("run") == key and not asked
            place.ready = begun and not (further and state in _NOT_ITS_FAULT)  # else no attempt at the run
            yield place, {"died": reason}

    def _count_early_deaths(self, reason: str, begun: bool) -> None:
        self._early_deaths = 0 if begun else self._early_deaths + 1
        if self._early_deaths > _MAX_EARLY_DEATHS:
            needed = "tasks that can run this Python and see this folder"
            raise EnvironmentProblem("Slurm tasks", f"do not start: {reason}", needed, "Look at setup in the profile")

    def _drop_ended(self) -> None:
        """While stopping: places in tasks that are no more, by Slurm's word, need no more waiting."""
        if time.monotonic() < self._next_question:
            return
        self._next_question = time.monotonic() + min(2.0, self.profile.poll_s)
        states = self._slurm.states(self._tasks) or {}
        for task in self._tasks:
            if states.get((task.name, task.index)) in _FINAL:
                for place in list(task.places.values()):
                    place.take()

    def _last_lines(self, task: _Task) -> str:
        """The end of what a task wrote to standard error."""
        for log in sorted((task.folder.parent / "jobs").glob(f"{task.id}_*.err")):
            with suppress(OSError):
                lines = [line.strip() for line in log.read_bytes()[-2000:].decode(errors="replace").splitlines()]
                if kept := [line for line in lines if line][-3:]:
                    return f"; its last lines: {' | '.join(kept)}"
        return ""


@dataclass(frozen=True)
class _Row:
    """A task as Slurm shows it."""

    name: str
    index: int
    job: str
    state: str


class _Refused(Exception):
    """sbatch did not take a job; ``text``: why, in a line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class _Slurm:
    """Slurm's commands; texts are arguments, no shell reads them."""

    def __init__(self) -> None:
        self.said = ""  # by the last command that failed

    def refuse_without(self, profile: Profile, root: Path) -> None:
        """EnvironmentProblem or UsageError for a cluster, package, profile or folder that cannot work."""
        missing = [name for name in _NEEDED if shutil.which(name) is None]
        if missing:
            remedy = "Run this on a login node, or leave --on out"
            raise EnvironmentProblem("--on slurm", f"no command {missing[0]} here", "Slurm's commands", remedy)
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            remedy = "Install it: pip install 'sessionwise[slurm]'"
            raise EnvironmentProblem("--on slurm", f"submitit cannot be imported ({error})", "it", remedy) from error
        if "%" in str(root):
            raise UsageError(str(root), "has a % in its path", "a folder that Slurm does not take for a pattern")
        done = self._run("sbatch", "--test-only", *_arguments(profile), "--wrap=true")
        if done is None and not any(words in self.said.lower() for words in (*_PASSING, *_DOWN)):
            found, needed = f"sbatch refuses such jobs ({self.said})", "settings that the site accepts"
            raise EnvironmentProblem(f"profile {profile.source}", found, needed, "Correct the profile")

    def submit(self, profile: Profile, folder: Path, name: str, bundles: list[str]) -> str:
        """An array with a task for each bundle; returns its job id. _Refused when sbatch does not take it."""
        import submitit

        python = f"{shlex.quote(sys.executable)} -P"  # -P: a file in the current folder shadows nothing
        executor = submitit.SlurmExecutor(folder=folder / "jobs", python=python)
        executor.update_parameters(**_parameters(profile), job_name=name)
        try:
            with _outside_of_jobs(), executor.batch():
                jobs = [executor.submit(Bundle(bundle)) for bundle in bundles]
        except Exception as error:  # whatever submitit makes of what sbatch said
            raise _Refused(_last_line(error)) from error
        return str(jobs[0].job_id).split("_")[0]

    def queue(self, names: Sequence[str]) -> list[_Row] | None:
        """Tasks of jobs with these names that squeue knows; None when it does not answer."""
        text = self._run(
            "squeue", "-h", "-r", "-a", "--states=all", f"--name={','.join(names)}", "-o", "%F|%K|%T|%r|%j"
        )
        if text is None:
            return None
        rows = []
        for line in text.splitlines():
            job, index, state, reason, name = [*line.split("|", 4), "", "", "", ""][:5]
            held = state == "PENDING" and "held" in reason.lower()
            if name.strip() in names:
                number = int(index) if index.isdecimal() else 0
                rows.append(_Row(name.strip(), number, job, "HELD" if held else state))
        return rows

    def states(self, tasks: Sequence[_Task]) -> dict[tuple[str, int], str] | None:
        """(name, index) -> state, from squeue, and from sacct for those that squeue forgot; None without an answer."""
        rows = self.queue(sorted({task.name for task in tasks})) if tasks else []
        if rows is None:
            return None
        found = {(row.name, row.index): row.state for row in rows}
        lost = [task for task in tasks if (task.name, task.index) not in found and task.job]
        return {**self._accounts(lost), **found}

    def end(self, tasks: Sequence[_Task]) -> None:
        """Take back tasks that are queued; those that run get a signal, on which they save."""
        ids = [task.id for task in tasks]
        for few in (ids[start : start + 200] for start in range(0, len(ids), 200)):
            self._run("scancel", "--state=PENDING", *few)
            self._run("scancel", "--signal=USR1", *few)

    def _accounts(self, tasks: Sequence[_Task]) -> dict[tuple[str, int], str]:
        """What the accounting says; nothing where there is none."""
        if not tasks or shutil.which("sacct") is None:
            return {}
        jobs = ",".join(sorted({task.job for task in tasks}))
        text = self._run("sacct", "-n", "-P", "-X", "-j", jobs, "-o", "JobID,State,JobName%64") or ""
        states = {}
        for line in text.splitlines():
            job, state, name = [*line.split("|"), "", ""][:3]
            index = job.partition("_")[2]
            if state.strip():  # "CANCELLED by 1000"
                states[name, int(index) if index.isdecimal() else 0] = state.split()[0].rstrip("+")
        return {(task.name, task.index): states.get((task.name, task.index), "") for task in tasks}

    def _run(self, *command: str) -> str | None:
        """What a command printed; None, with ``said``, when it failed."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, errors="replace")
        except (OSError, subprocess.SubprocessError) as error:
            self.said = _last_line(error)
            return None
        if done.returncode:
            self.said = _last_line(done.stderr) or f"{command[0]} ended with exit code {done.returncode}"
            return None
        return done.stdout


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """A command that itself runs in a job must not pass that job's environment on; where Slurm is, stays known."""
    inside = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
    taken = {name: value for name, value in os.environ.items() if name.startswith(inside) and name not in _KEPT}
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)


def _parameters(profile: Profile) -> dict[str, Any]:
    """A profile in the words of submitit."""
    values: dict[str, Any] = {"time": profile.time, "cpus_per_task": profile.cpus, "nodes": 1, "ntasks_per_node": 1}
    values |= {"signal_delay_s": profile.signal_s, "additional_parameters": {"requeue": True}}
    values["setup"] = [f"export {name}={value}" for name, value in ONE_THREAD.items()] + list(profile.setup)
    named = {name: getattr(profile, name) for name in ("partition", "account", "qos", "constraint", "exclude")}
    values |= {name: value for name, value in {**named, "mem": profile.memory}.items() if value is not None}
    if profile.gpus:
        values["gpus_per_node"] = profile.gpus
    return values


def _arguments(profile: Profile) -> list[str]:
    """A profile as options of sbatch."""
    values = {"time": profile.time, "cpus-per-task": profile.cpus, "nodes": 1, "mem": profile.memory}
    values |= {name: getattr(profile, name) for name in ("partition", "account", "qos", "constraint", "exclude")}
    values["gpus-per-node"] = profile.gpus or None
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def _processes_ended(folder: Path) -> bool:
    return processes_ended(folder, sum(path.name.isdecimal() for path in folder.iterdir()))


def _said(task: _Task, key: str) -> bool:
    said = reply_of(task.folder, key)
    return said is not None and said["reply"] in FINAL


def _kind(place: SlurmPlace) -> str:
    assert place.spec is not None
    return place.spec.kind


def _kind_and_length(place: SlurmPlace) -> tuple[str, int]:
    assert place.spec is not None
    return place.spec.kind, -place.spec.steps


def _last_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
