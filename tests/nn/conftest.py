import functools

import pytest
import thin
import thin_backbone

from molo_jax.weights.networks import abstract_network


@pytest.fixture
def network():
    """Makes the structure and the abstract weights of a method, on the thin ResNet."""
    with thin_backbone.registered():
        yield _abstract


@functools.cache
def _abstract(method):
    """Traced once, for all precisions."""
    return abstract_network(thin.settings(method))
