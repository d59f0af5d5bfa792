"""Which class is this clip? Networks on one's own videos, without TensorFlow and without flags."""
