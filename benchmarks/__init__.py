"""Benchmarks: ratios measured side by side in one run; `python -m benchmarks --write` runs all of them."""

import os

import jax

# Now, because `import gymnax` starts JAX with the devices that it has by then.
if not jax._src.xla_bridge.backends_are_initialized():  # type: ignore[attr-defined]
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
