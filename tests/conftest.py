import os
import tempfile

# Tests never touch the user's own cache; compiled programs are shared within one session.
os.environ.setdefault("UNSEEN_HOME", os.path.join(tempfile.gettempdir(), "unseen-test-home"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from unseen.lab.engine import set_up

# The devices and flags that a run sets, before a test initialises JAX in some other way.
set_up()
