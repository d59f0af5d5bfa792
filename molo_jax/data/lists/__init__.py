"""Which videos there are, and which split and class each belongs to."""
