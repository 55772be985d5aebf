"""Boxes on frames: a line around each, on its own frame and nowhere else."""

import numpy as np

from tubelet.inspect.draw.places import MARK, outlined
from tubelet.language.vlm.answer_places import Place
from tubelet.reading.clip import Clip


def test_a_box_is_drawn_on_its_frame_alone():
    clip = Clip(np.full((3, 40, 60, 3), 200, np.uint8), (0.0, 0.5, 1.0), "c.mp4", is_video=True)
    drawn = outlined(clip, [Place(0, 1, (10.0, 8.0, 30.0, 24.0), 1.0)], (0.0, 1.1))
    assert np.array_equal(drawn.frames[:2], clip.frames[:2])
    marked = (drawn.frames[2] == MARK).all(-1)
    rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
    assert (columns[0], rows[0], columns[-1], rows[-1]) == (10, 8, 29, 23)
    assert (drawn.frames[2][12:20, 14:26] == 200).all()
    assert (clip.frames == 200).all()
    assert outlined(clip, [], (0.0,)) is clip
