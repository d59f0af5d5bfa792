"""The type checker that runs on molo_jax while its tests run (see pyproject.toml)."""

from beartype import BeartypeConf, beartype

# As PEP 484 has it: an int is welcome where a float is asked for.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
