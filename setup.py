"""Which packages are built. Everything else that is built is described in pyproject.toml.

The configurations lie in `configs/` at the top of the checkout, where their users look for them; in
the wheel they are in the package, where `molo_jax/config_files.py` finds them.
"""

from setuptools import find_namespace_packages, setup

FOUND = find_namespace_packages(
    include=["molo_jax", "molo_jax.*", "molo_torch_ref"], exclude=["*.__pycache__", "*.templates"]
)

setup(
    packages=[*FOUND, "molo_jax.configs"],
    package_dir={"molo_jax.configs": "configs"},
)
