"""Errors that a user can mend, told in one line."""

from __future__ import annotations


class StainfreeError(Exception):
    """Something a user can mend: the message is one line that names the file or key and the mend."""


class ConfigError(StainfreeError):
    """The configuration asks for something that does not exist or cannot be."""


class DataError(StainfreeError):
    """A file does not hold what it should."""
