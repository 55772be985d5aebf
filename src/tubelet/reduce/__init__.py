"""Fewer rows: `merge`, `pool` and `select` are tubelet's own; every method by name is behind `choose`."""

from tubelet import face

__getattr__, __dir__ = face(__name__)
