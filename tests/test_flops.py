import jax
import jax.numpy as jnp
import pytest

from r3p import flops


def counted(f, *args):
    return flops.count(jax.jit(f).trace(*args).jaxpr)


def test_products_and_convolutions_as_the_compiler_counts_them():
    x, w = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def f(x, w, m):
        y = jax.lax.conv_general_dilated(x, w, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return (y.reshape(2, -1) @ m).sum()

    m = jnp.ones((45, 7))
    products = 2 * (2 * 3 * 3 * 5) * 27 + 2 * 2 * 45 * 7
    assert counted(f, x, w, m) == products
    told = jax.jit(f).lower(x, w, m).cost_analysis()["flops"]
    assert products == pytest.approx(told, rel=0.01)
    # backward: every product twice more
    assert counted(jax.grad(f, argnums=(0, 1, 2)), x, w, m) == pytest.approx(3 * products, rel=0.35)


def test_a_scan_counts_as_often_as_it_runs():
    a = jnp.ones((4, 4))
    once = counted(lambda x: x @ a, a)
    assert counted(lambda x: jax.lax.scan(lambda c, _: (c @ a, None), x, None, length=5)[0], a) == 5 * once
    assert counted(lambda x: jax.lax.map(lambda r: r @ a, x), a) == once
    assert counted(lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ a @ a, lambda: x), a) == 2 * once
    again = counted(jax.grad(jax.checkpoint(lambda x: jnp.sin(x @ a).sum())), a)
    assert again == 3 * once  # forward, forward again, backward


class Device:
    def __init__(self, kind):
        self.device_kind = kind


def test_peaks_by_kind():
    assert flops.peak(Device("NVIDIA H100 80GB HBM3")) == 989e12
    assert flops.peak(Device("TPU v5 lite")) == 197e12 and flops.peak(Device("TPU v5")) == 459e12
    assert flops.peak(Device("NVIDIA L40S")) == 362e12 and flops.peak(Device("NVIDIA L4")) == 121e12
    assert flops.peak(Device("cpu")) is None
