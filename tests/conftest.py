"""Nothing of a user's cache or accelerator may reach the tests."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
