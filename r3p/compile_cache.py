"""Compiled programs are kept on disk: a second run of the same command does not compile again."""

import jax

from r3p.assets.fetch import cache_dir


def enable() -> None:
    """For this process, in the folder of `r3p assets`."""
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
