"""r3p: one portrait plus speech or a driving video in, a 3D-aware talking video out (Real3D-Portrait in JAX)."""

__version__ = "0.1.0"
