"""Errors that a user can mend, told in one line."""

from __future__ import annotations

from typing import ClassVar


class StainfreeError(Exception):
    """Something a user can mend: the message is one line that names the file or key and the mend."""

    lasting: ClassVar[bool] = True
    """Whether a further attempt at the same work would end the same, whatever time and memory it gets."""


class ConfigError(StainfreeError):
    """The configuration asks for something that does not exist or cannot be."""


class DataError(StainfreeError):
    """A file does not hold what it should."""


class DivergedError(StainfreeError):
    """A training's loss is no number any more."""


class OutOfTimeError(StainfreeError):
    """The job's time ends: what was done is saved, and a further attempt goes on from there."""

    lasting = False


class OutOfMemoryError(StainfreeError):
    """The job's memory did not suffice; a further attempt gets more."""

    lasting = False


class TakenOverError(StainfreeError):
    """Another process has taken over the work of this one."""

    lasting = False
