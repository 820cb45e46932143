"""Typed errors, exit codes, and the one format of a message.

Every message a user sees says where, what was found, what is needed, and one remedy. The command line prints
one line per problem and no traceback (unless ``--debug``); Python users catch the types below.
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_DONE = 0
EXIT_SOME_RUNS_FAILED = 1
EXIT_USAGE = 2
EXIT_DATA = 3
EXIT_ENVIRONMENT = 4
EXIT_INTEGRITY = 5
EXIT_LEAKAGE = 6
EXIT_STOPPED = 75


class SessionwiseError(Exception):
    """Base of every error that sessionwise raises on purpose.

    Parameters
    ----------
    where: the file, session, setting or folder concerned.
    found: what is there.
    needed: what should be there.
    remedy: one thing to do.
    """

    exit_code = EXIT_USAGE

    def __init__(self, where: str, found: str, needed: str = "", remedy: str = "") -> None:
        self.where, self.found, self.needed, self.remedy = where, found, needed, remedy
        super().__init__(message(where, found, needed, remedy))


class UsageError(SessionwiseError):
    """A command, setting or argument that cannot be meant (exit 2)."""

    exit_code = EXIT_USAGE


class DataError(SessionwiseError):
    """A recording or file that is not what it should be (exit 3)."""

    exit_code = EXIT_DATA


class EnvironmentProblem(SessionwiseError):
    """Disk, memory, device or network stands in the way (exit 4)."""

    exit_code = EXIT_ENVIRONMENT


class IntegrityError(SessionwiseError):
    """A recorded hash disagrees with what is stored (exit 5)."""

    exit_code = EXIT_INTEGRITY


class LeakageError(SessionwiseError):
    """Held-out data would reach pretraining (exit 6)."""

    exit_code = EXIT_LEAKAGE


class RunsFailed(SessionwiseError):
    """The command finished, but some runs failed (exit 1)."""

    exit_code = EXIT_SOME_RUNS_FAILED


class Stopped(SessionwiseError):
    """Stopped on a signal; the same command goes on (exit 75)."""

    exit_code = EXIT_STOPPED


class SessionwiseWarning(UserWarning):
    """Something worth knowing that stops nothing; it is recorded with the results."""


class Problems(SessionwiseError):
    """Several problems in one answer; leakage is named first and decides the exit code."""

    def __init__(self, problems: Sequence[SessionwiseError]) -> None:
        if not problems:
            raise ValueError("Problems needs at least one problem")
        self.problems = sorted(problems, key=lambda problem: -problem.exit_code)
        first = self.problems[0]
        super().__init__(first.where, first.found, first.needed, first.remedy)
        self.args = ("\n".join(str(problem) for problem in self.problems),)
        self.exit_code = first.exit_code


def message(where: str, found: str, needed: str = "", remedy: str = "") -> str:
    """``where: found; need needed. remedy`` in one line, control characters escaped."""
    text = f"{where}: {found}"
    if needed:
        text += f"; need {needed}"
    if remedy:
        text += f". {remedy}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def raise_all(problems: Sequence[SessionwiseError]) -> None:
    """Raise nothing, the one problem, or all of them at once."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Problems(problems)
