"""Replays values that were recorded from the official implementation.

`python -m parity_tests.golden FILE.npz … [--backend=jax|torch] [--json=OUT]`
"""
