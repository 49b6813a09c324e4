"""Data for training, host-side: never imports jax."""
