"""3-D: cameras, choice of frames, tubelets, and features of geometry networks joined with the tokens of an encoder."""
