import gc
import os
import subprocess
import sys
import tempfile

import psutil
import pytest

# Tests never touch the user's own cache; compiled programs are shared within one session.
os.environ.setdefault("UNSEEN_HOME", os.path.join(tempfile.gettempdir(), "unseen-test-home"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Without XLA's newer emitters compiling takes half the time. An XLA that does not know the flag would abort.
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers are given the environment of the process that starts them
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    if not subprocess.run(probe, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True).returncode:
        os.environ["XLA_FLAGS"] = flags

from unseen.lab.engine import set_up

# The devices and flags that a run sets, before a test initialises JAX in some other way.
set_up()

LARGEST = 3 * 2**30  # bytes that a worker may hold beyond the end of a module


@pytest.fixture(autouse=True, scope="module")
def forget():
    """Compiled programs of all modules together would not fit into memory beside those of another worker."""
    yield
    if psutil.Process().memory_info().rss > LARGEST:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def quick_to_compile(request):
    """Most tests compile for seconds and compute for milliseconds: XLA's optimizations do not pay here, unless a
    module says so: `pytestmark = pytest.mark.optimized`."""
    import jax

    plain = request.node.get_closest_marker("optimized") is None
    if jax.config.read("jax_disable_most_optimizations") != plain:
        # Programs in memory are not told apart by how they were compiled.
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", plain)
