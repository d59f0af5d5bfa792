"""The features of all clips of a split on disk, where they are found again as long as they fit."""
