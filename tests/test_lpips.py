"""LPIPS: its formula on made-up weights everywhere, its values on the real ones where those were fetched."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r3p.errors import InputError
from r3p.lpips import STAGES, alex_features, features, load, lpips, lpips_alex
from r3p.photo import load_image

CHANNELS = (3, 4, 4, 6, 6, 8, 8, 8, 8, 8, 8, 8, 8, 8)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The network with few channels, through the file format."""
    rng = np.random.default_rng(0)
    arrays = {}
    for k in range(13):
        i, o = CHANNELS[k], CHANNELS[k + 1]
        arrays[f"VGG16_0/Conv_{k}/kernel"] = rng.normal(0, 0.4, (3, 3, i, o)).astype(np.float32)
        arrays[f"VGG16_0/Conv_{k}/bias"] = rng.normal(0, 0.1, o).astype(np.float32)
    for s, k in enumerate((2, 4, 7, 10, 13)):
        arrays[f"NetLinLayer_{s}/Conv_0/kernel"] = rng.uniform(0, 1, (1, 1, CHANNELS[k], 1)).astype(np.float32)
    path = tmp_path_factory.mktemp("lpips") / "small.npz"
    np.savez(path, **arrays)
    return load(path)


def _images(seed, n=2, size=32):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (n, size, size, 3)), jnp.float32)


def test_is_a_distance(small):
    a, b = _images(0), _images(1)
    assert lpips(small, a, b).shape == (2,)
    np.testing.assert_array_equal(lpips(small, a, a), 0)
    np.testing.assert_allclose(lpips(small, a, b), lpips(small, b, a), rtol=1e-5)
    assert (lpips(small, a, b) > 0).all()


def test_formula_against_numpy(small):
    """Section 3, eq. 1: weighted squared differences of unit vectors, averaged over space, summed over stages."""
    a, b = _images(0, 1), _images(1, 1)
    want = 0.0
    for x, y, w in zip(features(small, a), features(small, b), small["weights"], strict=True):
        x, y = (np.asarray(v, np.float64) / (np.linalg.norm(v, axis=-1, keepdims=True) + 1e-10) for v in (x, y))
        want += ((x - y) ** 2 * np.asarray(w)).sum(-1).mean()
    np.testing.assert_allclose(lpips(small, a, b)[0], want, rtol=1e-4)


def test_features_halve_in_size(small):
    assert [f.shape[1:] for f in features(small, _images(0))] == [
        (32, 32, 4),
        (16, 16, 6),
        (8, 8, 8),
        (4, 4, 8),
        (2, 2, 8),
    ]


def test_stages_add_up(small):
    a, b = _images(0), _images(1)
    values = [float(lpips(small, a, b, stages=s)[0]) for s in range(1, STAGES + 1)]
    assert values == sorted(values)
    assert len(features(small, a, 2)) == 2


def test_gradient_is_finite_even_on_black(small):
    gradient = jax.jit(jax.grad(lambda x, p: lpips(p, x, jnp.zeros_like(x), stages=3).sum()))
    dead = {"convs": [(k * 0, v * 0) for k, v in small["convs"]], "weights": small["weights"]}
    for images, params in (
        (_images(0, 1, 16), small),
        (jnp.full((1, 16, 16, 3), -1.0), small),
        (_images(0, 1, 16), dead),
    ):
        assert np.isfinite(gradient(images, params)).all()


def test_wrong_input(small, tmp_path):
    with pytest.raises(InputError, match="two equal shapes"):
        lpips(small, _images(0), _images(0, 1))
    with pytest.raises(InputError, match="5 stages on 8x8"):
        lpips(small, _images(0, size=8), _images(0, size=8))
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    with pytest.raises(InputError, match="does not hold LPIPS weights"):
        load(tmp_path / "other.npz")


def test_real_weights_order_changes_as_people_do(request):
    params = load()
    image = load_image(request.path.parent / "data" / "portrait.jpg")[60:180, 140:260]
    blurred = [cv2.GaussianBlur(image, (0, 0), s) for s in (0.7, 1.5, 4)]
    brighter = np.clip(image.astype(int) + 6, 0, 255).astype(np.uint8)
    a = jnp.asarray(np.stack([image] * 5), jnp.float32) / 127.5 - 1
    b = jnp.asarray(np.stack([image, brighter, *blurred]), jnp.float32) / 127.5 - 1
    same, light, *soft = np.asarray(jax.jit(lpips)(params, a, b))
    assert same == 0 and light < 0.03 < soft[1] < soft[2] < 0.9 and soft[0] < soft[1]


def test_alexnet_orders_changes_as_people_do(request):
    params = load(net="alexnet")
    image = load_image(request.path.parent / "data" / "portrait.jpg")[60:180, 140:260]
    soft = [cv2.GaussianBlur(image, (0, 0), s) for s in (0.7, 4)]
    a, b = (jnp.asarray(np.stack(x), jnp.float32) / 127.5 - 1 for x in ([image] * 3, [image, *soft]))
    same, little, much = np.asarray(jax.jit(lpips_alex)(params, a, b))
    assert same == 0 and 0 < little < much < 1
    # 120 pixels: a stride of 4 and two poolings of 3 with a stride of 2.
    assert [f.shape[1:] for f in alex_features(params, a[:1])] == [
        (29, 29, 64),
        (14, 14, 192),
        (6, 6, 384),
        (6, 6, 256),
        (6, 6, 256),
    ]
    with pytest.raises(InputError, match="31 pixels"):
        lpips_alex(params, a[:, :16], b[:, :16])


def _plain_conv(x, kernel, bias, stride, pad):
    """[h, w, i] * [kh, kw, i, o], float64."""
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (0, 1))[::stride, ::stride]
    return np.maximum(np.einsum("hwiab,abio->hwo", windows, kernel) + bias, 0)


def _plain_pool(x, size):
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))[::2, ::2]
    return windows.max((-1, -2))


def plain_lpips(params, net, a, b):
    """The definition in NumPy: both nets as their papers have them, unit vectors, weighted squares, means."""
    totals = []
    for image in (a, b):
        shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
        x, stages = (image / 127.5 - 1 - shift) / scale, []
        convs = [(np.asarray(k, np.float64), np.asarray(c, np.float64)) for k, c in params["convs"]]
        if net == "alexnet":
            steps = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))
            for k, (conv, (stride, pad)) in enumerate(zip(convs, steps, strict=True)):
                x = _plain_conv(_plain_pool(x, 3) if k in (1, 2) else x, *conv, stride, pad)
                stages.append(x)
        else:
            for stage, count in enumerate((2, 2, 3, 3, 3)):
                x = _plain_pool(x, 2) if stage else x
                for _ in range(count):
                    x = _plain_conv(x, *convs.pop(0), 1, 1)
                stages.append(x)
        totals.append([s / (np.linalg.norm(s, axis=-1, keepdims=True) + 1e-10) for s in stages])
    weights = [np.asarray(w, np.float64) for w in params["weights"]]
    return sum((np.square(p - q) @ w).mean() for p, q, w in zip(*totals, weights, strict=True))


@pytest.mark.parametrize(("net", "side"), [("alexnet", 64), ("vgg16", 32)])
def test_real_weights_on_a_photograph_equal_numpy(net, side, request):
    image = load_image(request.path.parent / "data" / "portrait.jpg")[80 : 80 + side, 150 : 150 + side]
    other = cv2.GaussianBlur(image, (0, 0), 1.5)
    params = load(net=net)
    a, b = (jnp.asarray(x[None], jnp.float32) / 127.5 - 1 for x in (image, other))
    function = lpips_alex if net == "alexnet" else lpips
    got = float(jax.jit(lambda p, x, y: function(p, x, y, precision="highest"))(params, a, b)[0])
    assert got == pytest.approx(plain_lpips(params, net, image, other), rel=1e-4)
