import os
import tempfile

# Tests never touch the user's own cache; compiled programs are shared within one session.
os.environ.setdefault("UNSEEN_HOME", os.path.join(tempfile.gettempdir(), "unseen-test-home"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
