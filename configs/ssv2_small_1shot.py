"""MoLo on Something-Something V2 (Small): trained on 1-shot episodes, tested with 1 shot.

Paper: Wang et al., MoLo: Motion-augmented Long-short Contrastive Learning for Few-shot Action
Recognition, CVPR 2023, arXiv 2304.00946. Published accuracy, 5-way 1-shot, ResNet-50 from ImageNet
weights: 42.7 %. Users of the official code report 39.8 %.

The videos may lie in any folders, with any extension; the official lists are fetched. Commands, the
first of them once for both numbers of shots:

    python -m molo_jax.prepare --dataset=ssv2_small --videos=DIR --out=data/prepared
    python -m molo_jax.main --config=configs/ssv2_small_1shot.py --workdir=runs/ssv2_small_1shot
"""

from ml_collections import ConfigDict

from molo_jax.methods.settings import DEFAULT_METHOD
from molo_jax.presets import preset_config


def get_config(method: str = DEFAULT_METHOD) -> ConfigDict:
    return preset_config("ssv2_small", method, shots=1)
