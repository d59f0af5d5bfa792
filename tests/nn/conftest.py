import pytest
import thin

from molo_jax.backbones import BACKBONES
from molo_jax.weights.networks import abstract_network


@pytest.fixture
def network(monkeypatch):
    """Makes the structure and the abstract weights of a method, on the thin ResNet."""
    monkeypatch.setitem(BACKBONES, "thin", thin.THIN)
    return lambda method: abstract_network(thin.settings(method))
