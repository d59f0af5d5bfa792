"""Video files: containers, decoding, the choice of frames."""
