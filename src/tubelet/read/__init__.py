"""Files in: bytes become upright RGB frames with true times."""

from tubelet.read.clip import Clip as Clip


def read(sources: object) -> list[Clip]:
    raise NotImplementedError
