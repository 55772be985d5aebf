"""Beside the line: what it costs (budget), how good it is (metrics), how it looks (draw) and how fast it is (speed)."""

from tubelet import face

__getattr__, __dir__ = face(__name__)
