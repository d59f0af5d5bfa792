"""Prepared videos on disk: writing, checking and reading them."""
