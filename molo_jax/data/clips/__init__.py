"""Episodes, and the sources of their clips."""
