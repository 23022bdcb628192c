"""What XLA is told where its own choice is slow."""

import functools

import jax

# On a CPU it hands sums and convolutions to YNNPACK, which takes longer than its own code. Without, on 2 cores and with
# jax 0.10.2, SimCLR's demo saw 3,780 images/s instead of 2,400 and GraphCL an epoch of NCI1 in 0.34 s instead of 0.47.
# Matrix products stay there.
CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def compiler_options(mesh):
    """For the jax.jit of programs on this mesh: {option: value}, or None where there is nothing to say."""
    return CPU if mesh.devices.flat[0].platform == "cpu" and known() else None


@functools.cache
def known():
    """Whether this version of XLA has the options for CPU."""
    try:
        jax.jit(lambda: 0, compiler_options=CPU).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
