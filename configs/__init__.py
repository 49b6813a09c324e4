"""Training configs: one file a stage, `get_config(mode)`; no jax in here."""
