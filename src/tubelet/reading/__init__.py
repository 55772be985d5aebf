"""Bytes in, Clip out: `read` is the way in. Nothing here loads torch, because the decoding child imports it."""

from tubelet.reading.read import read as read
