"""What the benchmark of frames counts."""

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.frame import work


def test_work_counts_products_loops_and_the_platform_that_runs():
    def function(x, kernel, square):
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        square = lax.scan(lambda c, _: (c @ c, None), square, length=5)[0]
        return y, lax.platform_dependent(square, cpu=lambda a: a @ a @ a, default=lambda a: a)

    shapes = [jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 4)), jnp.zeros((6, 6))]
    jaxpr = jax.make_jaxpr(jax.jit(function))(*shapes).jaxpr
    conv, product = 2 * (2 * 8 * 8 * 4) * (3 * 3 * 3), 2 * 6**3
    moved_by_conv, moved_by_product = 4 * (2 * 8 * 8 * 7 + 3 * 3 * 3 * 4), 4 * 3 * 36
    assert work(jaxpr, "cpu") == (conv + 7 * product, moved_by_conv + 7 * moved_by_product)
    assert work(jaxpr, "tpu") == (conv + 5 * product, moved_by_conv + 5 * moved_by_product)
