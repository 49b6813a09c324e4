"""Batch normalisation with PyTorch's running statistics."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


class BatchNorm(nn.Module):
    """Normalises the last axis over all others.

    In training the statistics are the batch's; under `jit` with a sharded batch they are those of the whole batch
    (SyncBatchNorm). Unlike Flax's layer the running variance is the unbiased one, as in PyTorch.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        c = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,))
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x.astype(jnp.float32), axes)
            var = jnp.mean(jnp.square(x.astype(jnp.float32) - mean), axes)
            if not self.is_initializing():
                count = x.size // c
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (var * count / max(count - 1, 1) - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        # One multiplication and one addition a value: the scale is folded first.
        scale = scale * jax.lax.rsqrt(var + self.epsilon)
        return x.astype(self.dtype) * scale.astype(self.dtype) + (bias - mean * scale).astype(self.dtype)
