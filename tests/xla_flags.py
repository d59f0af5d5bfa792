"""How XLA compiles the programs of the tests, as far as the installed JAX lets it be chosen."""

import importlib.metadata

# Up to JAX 0.10 the code of a CPU is made without MLIR where that is asked for. Later versions have
# one way only, and end the process over a flag that they do not know.
_CAN_CHOOSE_EMITTERS = importlib.metadata.version("jaxlib").startswith("0.10.")

# The programs of the tests are small and run a few times, so that compiling them costs more than
# running them: without LLVM's optimizations it takes half as long, and without MLIR on the way to
# LLVM a third of that, and half the memory. Read when JAX starts.
# And XLA otherwise orders the operations so that more can run at the same time, with more memory.
QUICK = (
    "--xla_backend_optimization_level=0",
    *(("--xla_cpu_use_fusion_emitters=false",) if _CAN_CHOOSE_EMITTERS else ()),
    "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
)
# For `jax.jit(…, compiler_options=…)` of the programs that the quick way gets wrong: some of the
# pixels of changed colors are mixed up.
RIGHT_COLORS = {"xla_cpu_use_fusion_emitters": True} if _CAN_CHOOSE_EMITTERS else {}
