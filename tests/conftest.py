"""Settings that every test shares."""

import os

# Before jax starts: the tests are about numbers on the CPU, whatever else the machine has.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
