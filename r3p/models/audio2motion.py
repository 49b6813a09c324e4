"""Speech to expression: a conditional VAE whose prior is a normalising flow (Real3D-Portrait's generic A2M).

One family of networks. `AudioToMotion()` is the official `PitchContourVAE` (HuBERT 1024 + pitch + blink + mouth
amplitude), `AudioToMotion(pitch=False, condition_width=64, mouth_amplitude=False, pairing="mean")` the plain VAE;
the embedded default is the same class on 80 mel bands with narrower fields.

Shapes: b utterances, t video frames (25 Hz, a multiple of `stride`), 2t audio frames (50 Hz), s = t / stride.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from r3p.models.norms import BatchNorm

Array = jax.Array
Initializer = Callable[..., Array]

PITCH_LOW, PITCH_HIGH, PITCH_BINS = 50.0, 1100.0, 256
DEFAULT_MOUTH_AMPLITUDE = 0.4


class Reconstruction(NamedTuple):
    """The posterior path's `expression` [b, t, c], `kl` scalar in nats per latent value, the rest [b, s, z]."""

    expression: Array
    kl: Array
    mean: Array
    log_scale: Array
    latent: Array
    prior: Array


def pitch_code(f0: Array) -> Array:
    """Codes [..] int32 in 1..255 of the pitch `f0` [..] in Hz, 0 = unvoiced, which is code 1.

    254 equal steps between 50 and 1100 Hz on the mel scale 1127 ln(1 + f / 700).
    """
    low, high = (1127.0 * math.log1p(f / 700.0) for f in (PITCH_LOW, PITCH_HIGH))
    mel = 1127.0 * jnp.log(1.0 + f0 / 700.0)
    code = jnp.where(mel > 0, (mel - low) * (PITCH_BINS - 2) / (high - low) + 1.0, mel)
    return jnp.floor(jnp.clip(code, 1.0, PITCH_BINS - 1.0) + 0.5).astype(jnp.int32)


class Conv(nn.Module):
    """1-D convolution [b, t, i] -> [b, t', o], zero padding of `padding` frames on both sides.

    With `weight_norm` the kernel is `scale * v / |v|`, the norm taken over everything but the output channel
    (Salimans and Kingma 2016).
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    weight_norm: bool = False
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        if self.weight_norm:
            scale = self.param("scale", lambda _: jnp.sqrt(jnp.sum(kernel**2, (0, 1), keepdims=True)))
            # The norm is of what an output channel reads, so the few results are scaled instead of the kernel.
            gain = (scale / jnp.sqrt(jnp.sum(kernel**2, (0, 1), keepdims=True)))[0]
        if self.stride == 1:
            # A sum of shifted products: on CPU several times faster than the convolution op, forward and backward.
            padded = jnp.pad(x, ((0, 0), (self.padding, self.padding), (0, 0)))
            length = padded.shape[1] - self.kernel_size + 1
            taps = jnp.concatenate([padded[:, k : k + length] for k in range(self.kernel_size)], -1)
            y = taps @ kernel.reshape(-1, self.features)
        else:
            y = jax.lax.conv_general_dilated(
                x, kernel, (self.stride,), [(self.padding, self.padding)], dimension_numbers=("NWC", "WIO", "NWC")
            )
        if self.weight_norm:
            y = y * gain
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,))
        return y


class ConvStack(nn.Module):
    """Two bias-free convolutions of 3 frames with BatchNorm and GELU between them: [b, t, i] -> [b, t, width]."""

    width: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = Conv(self.width, 3, padding=1, use_bias=False, name="conv0")(x)
        x = nn.gelu(BatchNorm(name="norm")(x, train=train), approximate=False)
        return Conv(self.width, 3, padding=1, use_bias=False, name="conv1")(x)


class WaveNet(nn.Module):
    """Gated convolutions without dilation, conditioned at every layer (the WN of WaveGlow).

    x [b, t, width], condition [b, t, g], mask [b, t, 1] -> the sum of the layers' skips [b, t, width].
    """

    width: int
    kernel_size: int
    layers: int

    @nn.compact
    def __call__(self, x: Array, condition: Array, mask: Array) -> Array:
        shifts = Conv(2 * self.width * self.layers, weight_norm=True, name="condition")(condition)
        total = jnp.zeros_like(x)
        for i, shift in enumerate(jnp.split(shifts, self.layers, -1)):
            pad = (self.kernel_size - 1) // 2
            y = Conv(2 * self.width, self.kernel_size, padding=pad, weight_norm=True, name=f"in{i}")(x) + shift
            y = jnp.tanh(y[..., : self.width]) * nn.sigmoid(y[..., self.width :])
            last = i == self.layers - 1
            y = Conv(self.width * (1 if last else 2), weight_norm=True, name=f"out{i}")(y)
            if not last:
                x = (x + y[..., : self.width]) * mask
                y = y[..., self.width :]
            total = total + y
        return total * mask


class Coupling(nn.Module):
    """Volume-preserving coupling: the second half of the channels moves by what the first half and the sound say."""

    width: int
    kernel_size: int
    layers: int

    @nn.compact
    def __call__(self, x: Array, condition: Array, mask: Array, *, reverse: bool) -> Array:
        half = x.shape[-1] // 2
        kept, moved = x[..., :half], x[..., half:]
        h = Conv(self.width, name="pre")(kept) * mask
        h = WaveNet(self.width, self.kernel_size, self.layers, name="net")(h, condition, mask)
        # zero start: the flow begins as the identity
        shift = Conv(half, kernel_init=nn.initializers.zeros, name="post")(h) * mask
        moved = (moved - shift) * mask if reverse else shift + moved * mask
        return jnp.concatenate([kept, moved], -1)


class Flow(nn.Module):
    """`steps` couplings, each followed by a reversal of the channels: latent [b, s, z] <-> standard normal."""

    steps: int
    width: int
    kernel_size: int
    layers: int

    @nn.compact
    def __call__(self, x: Array, condition: Array, mask: Array, *, reverse: bool = False) -> Array:
        couplings = [Coupling(self.width, self.kernel_size, self.layers, name=f"step{i}") for i in range(self.steps)]
        if reverse:
            for coupling in reversed(couplings):
                x = coupling(x[..., ::-1], condition, mask, reverse=True)
        else:
            for coupling in couplings:
                x = coupling(x, condition, mask, reverse=False)[..., ::-1]
        return x


class Encoder(nn.Module):
    """Expression [b, t, c] -> mean and log standard deviation of the latent, [b, s, z] each."""

    latent: int
    width: int
    kernel_size: int
    layers: int
    stride: int

    @nn.compact
    def __call__(self, y: Array, condition: Array, mask: Array) -> tuple[Array, Array]:
        h = Conv(self.width, 2 * self.stride, self.stride, self.stride // 2, name="pre")(y) * mask
        h = WaveNet(self.width, self.kernel_size, self.layers, name="net")(h, condition, mask)
        mean, log_scale = jnp.split(Conv(2 * self.latent, name="post")(h), 2, -1)
        return mean, log_scale


class Expand(nn.Module):
    """Transposed convolution whose stride is its kernel: a frame gives `stride` of its own, [b, s, i] -> [b, t, o]."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, s, c = x.shape
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2)
        kernel = self.param("kernel", init, (self.stride, self.features, c))
        y = jnp.einsum("bsc,kdc->bskd", x, kernel).reshape(b, s * self.stride, self.features)
        return y + self.param("bias", nn.initializers.zeros, (self.features,))


class Decoder(nn.Module):
    """Latent [b, s, z] and condition [b, t, g] -> expression [b, t, c]."""

    features: int
    width: int
    kernel_size: int
    layers: int
    stride: int

    @nn.compact
    def __call__(self, z: Array, condition: Array, mask: Array) -> Array:
        h = Expand(self.width, self.stride, name="pre")(z) * mask
        h = WaveNet(self.width, self.kernel_size, self.layers, name="net")(h, condition, mask)
        return Conv(self.features, name="post")(h)


class AudioToMotion(nn.Module):
    """Sound to expression coefficients.

    `pairing` says how the two audio frames of a video frame become one: "first" keeps the even one (official with
    pitch), "mean" averages (official without), "stack" keeps both side by side. The pitch code is always that of the
    even frame.
    """

    expression: int = 64
    condition_width: int = 128
    latent: int = 16
    width: int = 256
    kernel_size: int = 5
    encoder_layers: int = 8
    decoder_layers: int = 4
    flow_steps: int = 4
    flow_width: int = 64
    flow_kernel_size: int = 3
    flow_layers: int = 4
    stride: int = 4
    pitch: bool = True
    mouth_amplitude: bool = True
    pairing: str = "first"

    def setup(self) -> None:
        if self.pairing not in ("first", "mean", "stack"):
            raise ValueError(f"pairing is {self.pairing!r}: expected 'first', 'mean' or 'stack'")
        width, normal = self.condition_width, nn.initializers.normal(1.0)
        self.audio_encoder = ConvStack(width)
        if self.pitch:
            self.pitch_embedding = nn.Embed(300, width, embedding_init=normal)
            self.pitch_encoder = ConvStack(width)
            self.blink_embedding = nn.Embed(2, width, embedding_init=normal)
            if self.mouth_amplitude:
                self.mouth_amplitude_embedding = self.param("mouth_amplitude_embedding", normal, (width,))
            self.condition = nn.Dense(width)
        self.condition_down = Conv(width, 2 * self.stride, self.stride, self.stride // 2)
        common = (self.width, self.kernel_size)
        self.encoder = Encoder(self.latent, *common, self.encoder_layers, self.stride)
        self.flow = Flow(self.flow_steps, self.flow_width, self.flow_kernel_size, self.flow_layers)
        self.decoder = Decoder(self.expression, *common, self.decoder_layers, self.stride)

    def _pair(self, x: Array) -> Array:
        b, t, c = x.shape
        if self.pairing == "first":
            return x[:, ::2]
        pairs = x.reshape(b, t // 2, 2, c)
        return pairs.mean(2) if self.pairing == "mean" else pairs.reshape(b, t // 2, 2 * c)

    def encode_sound(
        self,
        audio: Array,
        f0: Array | None = None,
        blink: Array | None = None,
        mouth_amplitude: Array | None = None,
        *,
        train: bool = False,
    ) -> Array:
        """Condition [b, t, g] of `audio` [b, 2t, c]; see `__call__` for the rest.

        Raises:
          ValueError: at trace time, when the number of audio frames does not fit the stride or the pitch is missing.
        """
        b, frames, _ = audio.shape
        if frames % (2 * self.stride):
            raise ValueError(f"{frames} audio frames: expected a multiple of {2 * self.stride}, pad the sound")
        sound = self.audio_encoder(self._pair(audio), train=train)
        if not self.pitch:
            return sound
        if f0 is None or f0.shape != (b, frames):
            raise ValueError(f"pitch of shape {None if f0 is None else f0.shape}: expected {(b, frames)}")
        parts = [sound, self.pitch_encoder(self.pitch_embedding(pitch_code(f0[:, ::2])), train=train)]
        code = jnp.zeros((b, frames), jnp.int32) if blink is None else blink.reshape(b, frames)
        parts.append(self.blink_embedding(code[:, ::2]))
        if self.mouth_amplitude:
            amplitude = jnp.full((b,), DEFAULT_MOUTH_AMPLITUDE) if mouth_amplitude is None else mouth_amplitude
            row = amplitude.reshape(b, 1, 1) * self.mouth_amplitude_embedding
            parts.append(jnp.broadcast_to(row, sound.shape))
        return self.condition(jnp.concatenate(parts, -1))

    def reconstruct(
        self,
        expression: Array,
        audio: Array,
        f0: Array | None = None,
        blink: Array | None = None,
        mouth_amplitude: Array | None = None,
        *,
        noise: Array,
        mask: Array | None = None,
        train: bool = False,
    ) -> Reconstruction:
        """The posterior path: `expression` [b, t, c] through the latent and back, with the KL to the prior.

        Args:
          noise: [b, s, z] standard normal draws of the posterior.
          mask: [b, t], 1 where the utterance is, 0 where it is padding.
          train: BatchNorm of the batch itself (then `batch_stats` must be mutable).
        """
        condition = self.encode_sound(audio, f0, blink, mouth_amplitude, train=train)
        b, t, _ = condition.shape
        frames = jnp.ones((b, t, 1)) if mask is None else mask.reshape(b, t, 1).astype(jnp.float32)
        slots = frames[:, :: self.stride]
        down = self.condition_down(condition)
        mean, log_scale = self.encoder(expression, down, slots)
        z = mean + noise * jnp.exp(log_scale)
        prior = self.flow(z, down, slots)
        # log q - log p; the constants cancel and the flow preserves volume
        kl = jnp.sum((-0.5 * noise**2 - log_scale + 0.5 * prior**2) * slots) / (jnp.sum(slots) * self.latent)
        y = self.decoder(z, condition, frames) * frames
        return Reconstruction(y, kl, mean, log_scale, z, prior)

    def __call__(
        self,
        audio: Array,
        f0: Array | None = None,
        blink: Array | None = None,
        mouth_amplitude: Array | None = None,
        *,
        noise: Array | None = None,
        mask: Array | None = None,
        train: bool = False,
    ) -> Array:
        """The prior path: sound to expression [b, t, c].

        Args:
          audio: [b, 2t, c] features at 50 Hz.
          f0: [b, 2t] pitch in Hz, 0 = unvoiced; needed when `pitch`.
          blink: [b, 2t] int, 1 where a blink is to have its middle; none when absent.
          mouth_amplitude: [b] or [b, 1] how far the mouth opens; 0.4 when absent.
          noise: [b, s, z] latent draws, already times the temperature; zeros when absent: deterministic.
          mask: [b, t], zeroes the frames of the result that are padding; it does not keep them from their neighbours.
          train: BatchNorm of the batch itself.
        """
        condition = self.encode_sound(audio, f0, blink, mouth_amplitude, train=train)
        b, t, _ = condition.shape
        if noise is None:
            noise = jnp.zeros((b, t // self.stride, self.latent))
        everywhere = jnp.ones((1, 1, 1))
        z = self.flow(noise, self.condition_down(condition), everywhere, reverse=True)
        y = self.decoder(z, condition, everywhere)
        return y if mask is None else y * mask.reshape(b, t, 1)

    def everything(self, audio: Array, f0: Array | None = None) -> tuple[Reconstruction, Array]:
        """Both paths on an empty expression: `model.init(rng, audio, f0, method="everything")` makes all parameters."""
        b, frames, _ = audio.shape
        y = jnp.zeros((b, frames // 2, self.expression))
        noise = jnp.zeros((b, frames // 2 // self.stride, self.latent))
        return self.reconstruct(y, audio, f0, noise=noise), self(audio, f0)
