"""`pip install unseen` without any extra: what needs none works."""

import subprocess
import sys

EXTRAS = [
    "gymnax", "rejax", "flax", "distrax", "gymnasium", "xminigrid",
    "metaworld", "mujoco", "gymnasium_robotics", "minari", "sklearn", "mlxtend",
    "onnxruntime", "tokenizers", "transformers", "safetensors", "starlette", "uvicorn",
    "arxiv", "huggingface_hub", "psycopg", "ray", "s3fs", "inspect_ai",
    "gguf", "evosax", "brax", "beartype",
]  # fmt: skip
PACKAGES = ["unseen", *(f"unseen.{name}" for name in ("lab", "models", "measures", "methods", "learners"))]
CODE = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS}))  # importing one of them fails
import importlib
for name in {[*PACKAGES, "unseen.worlds", "unseen.worlds.control", "unseen.studies.dynamics.grokking"]}:
    importlib.import_module(name)
"""


def test_packages_and_the_first_experiment_import_without_extras():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]


def test_what_is_imported_on_demand_is_there():
    import unseen.learners
    import unseen.methods

    for package in (unseen.learners, unseen.methods):
        assert all(getattr(package, name) is not None for name in package.__all__)
        for names in package._ON_DEMAND.values():
            assert set(names) <= set(package.__all__)
