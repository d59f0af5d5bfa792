"""The methods by name."""

from torch import nn

from molo_torch_ref.bi_mhm import BiMHM
from molo_torch_ref.hyrsm import HyRSM
from molo_torch_ref.hyrsm_pp import HyRSMPlusPlus
from molo_torch_ref.model import MoLo
from molo_torch_ref.otam import OTAM
from molo_torch_ref.protonet import ProtoNet
from molo_torch_ref.trx import TRX

METHODS = {
    "molo": MoLo,
    "protonet": ProtoNet,
    "bi_mhm": BiMHM,
    "otam": OTAM,
    "trx": TRX,
    "hyrsm": HyRSM,
    "hyrsm_pp": HyRSMPlusPlus,
}


def make_network(method: str, **settings) -> nn.Module:
    """Builds the network of a method; the settings are the arguments of its class.

    Raises:
        ValueError: if there is no method of that name.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}")
    return METHODS[method](**settings)
