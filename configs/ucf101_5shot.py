"""MoLo on UCF101: trained on 1-shot episodes, tested with 5 shots.

Paper: Wang et al., MoLo: Motion-augmented Long-short Contrastive Learning for Few-shot Action
Recognition, CVPR 2023, arXiv 2304.00946. Published accuracy, 5-way 5-shot, ResNet-50 from ImageNet
weights: 95.5 % (not checked against a second source).

The videos may lie in any folders, with any extension; the official lists are fetched. Commands, the
first of them once for both numbers of shots:

    python -m molo_jax.prepare --dataset=ucf101 --videos=DIR --out=data/prepared
    python -m molo_jax.main --config=configs/ucf101_5shot.py --workdir=runs/ucf101_5shot
"""

from ml_collections import ConfigDict

from molo_jax.methods.settings import DEFAULT_METHOD
from molo_jax.presets import preset_config


def get_config(method: str = DEFAULT_METHOD) -> ConfigDict:
    return preset_config("ucf101", method, shots=5)
