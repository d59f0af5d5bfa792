"""Videos to episodes: split lists, episode sampling, decoding, the input pipeline, augmentation."""
