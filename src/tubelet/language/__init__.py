"""Into the language model: projectors, the places rows take in a prompt and their positions, and whole models."""

from tubelet import face

__getattr__, __dir__ = face(__name__)
