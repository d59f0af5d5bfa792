"""MoLo: few-shot action recognition from video, in JAX."""
