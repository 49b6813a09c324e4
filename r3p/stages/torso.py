"""The torso stage (Real3D-Portrait, section 3.3): head, torso and background fused; the super-resolution alone learns.

Image-to-plane, adapter and decoder are frozen and draw the head; the fusing super-resolution (both blocks, torso warp,
encoders, fusion) draws the finished frame. Terms in logs and the original's names for them:

    mv_l1, mv_lpips             G_th1kh_mv_img_mae (masked_error_loss, 1 on the torso, 0.5 elsewhere), _img_lpips
    mv_lip_l1, mv_lip_lpips     G_th1kh_mv_img_lip_mae, _lip_lpips
    mv_adv; all as ref_*        G_th1kh_mv_adv; the source shown as it is, every `ref_every` steps
    occlusion_l1, occlusion_2_l1, occlusion_2_entropy
                                facev2v/occlusion_reg_l1, occlusion_2_reg_l1, occlusion_2_weights_entropy
    equivariance                of key points that the model finds itself (not in the original's configs)
    d_real, d_fake, d_r1        D_maximize_mv, D_minimize_mv_fake, D_*_gradient_penalty: the frame, with the raw head

The frozen networks run as in use. In the original their dropout and batch statistics are left in training mode:
`frozen_as_in_training`. Masks weigh their own image, whatever the batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import losses, schedules
from r3p import state as states
from r3p.errors import InputError
from r3p.models.decoder import Head
from r3p.models.keypoints import warp_of
from r3p.models.portrait import Portrait
from r3p.models.superres import FusionOutput
from r3p.models.torso import occlusion_losses
from r3p.stages import Batch, Stage, adversary, frames, parts, pretrained, terms
from r3p.stages.adversary import NAME, Shown
from r3p.stages.draws import Draws
from r3p.state import TrainState

Array = jax.Array
PART = "superres"
GROUPS = ((f"^{PART}/", PART),)


class Surroundings(NamedTuple):
    """What of the source is fused with a head.

    Torso and background [b, s, s, 3] in [-1, 1], one-hot classes [b, s, s, 6], key points of `keypoints_of`.
    """

    torso: Array
    background: Array
    segmap: Array
    keypoints: Array


def unsupervised(model: Portrait) -> bool:
    """Whether the model finds its key points itself."""
    return bool(model.superres_fields.get("keypoints") == "unsupervised")


def keypoints_of(model: Portrait, truth: frames.Truth) -> Array:
    """What the torso follows: landmarks [b, 68, 3], or the picture in which the model finds its own key points."""
    return truth.image if unsupervised(model) else truth.keypoints


def surroundings(model: Portrait, batch: Batch, kind: str = "inpainted") -> Surroundings:
    """Those of a batch; of the `raw` kind the background is the source as it is, the person still in it."""
    if kind not in ("inpainted", "raw"):
        raise InputError(f"background is {kind!r}: choose inpainted or raw")
    behind = "source" if kind == "raw" else "background"
    torso, background = (frames.to_float(batch[k]) for k in ("torso", behind))
    segmap = jax.nn.one_hot(batch["source_segmap"], 6)
    return Surroundings(torso, background, segmap, keypoints_of(model, frames.source_truth(batch)))


def fuse(
    model: Portrait,
    variables: Any,
    head: Head,
    around: Surroundings,
    keypoints: Array,
    *,
    train: bool,
    mutable: list[str],
) -> tuple[FusionOutput, Any]:
    """The finished frame of a rendered head at target key points (of `keypoints_of`), and the changed collections."""

    def run(model: Portrait) -> FusionOutput:
        cache = model.encode(around.torso, around.background, around.segmap, train=train)
        return model.frame(cache, head, around.keypoints, keypoints, train=train)

    out: tuple[FusionOutput, Any] = model.apply(variables, method=run, mutable=mutable)
    return out


def make(config: ConfigDict) -> Stage:
    """The stage from its config (`configs/torso.py`)."""
    from data_pipelines import frames as data

    model = parts.build(config, torso=True)
    size = model.frame_size
    perception = terms.Perception(config.perceptual)
    judge = adversary.make(config.adversary, size)
    factors = config.loss.to_dict()
    # A fresh discriminator: the head stage's knows heads on black.
    found = pretrained.read(config.start)[0] if config.start else None
    found_judge = pretrained.discriminator(config.discriminator) if config.discriminator else None

    def init_variables(rng: Array) -> Any:
        variables = frames.init_variables(model, config, rng, method="__call__")
        return variables if found is None else pretrained.graft(variables, found, config.start)[0]

    def shapes(rng: Array) -> Any:
        params = dict(init_variables(rng)["params"])
        return params | ({NAME: judge.init(rng)} if judge else {})

    def rates(now: Array) -> dict[str, Array]:
        return schedules.torso_rates(now, rate=config.learning_rate)

    like = jax.eval_shape(shapes, jax.random.key(0))
    parts.tell_start(like, found, config.start)
    optimizer = parts.optimizer(config, like, GROUPS, rates, judge)

    def init(rng: Array) -> TrainState:
        frozen = {"perception": perception.init()}
        return parts.first_state(
            init_variables(rng), optimizer, judge, jax.random.fold_in(rng, 1), frozen=frozen, judge=found_judge
        )

    def compare(prefix: str, trees: Any, image: Array, truth: frames.Truth) -> dict[str, Array]:
        mask = terms.grown(truth.torso_mask, config.mask_dilation)
        squared = config.reconstruction == "mse"
        out = {
            f"{prefix}_l1": losses.masked_error(
                image, truth.image, mask, outside=config.outside, squared=squared, each=True
            )
        }
        if perception:
            out[f"{prefix}_lpips"] = perception(trees, image, truth.image)
        return out | frames.lip_terms(prefix, perception, trees, image, truth.image, truth.keypoints, config.lip_size)

    def head_of(
        variables: Any, batch: Batch, pncc: Array, camera: Array, draws: Draws | None, rngs: Any, name: str
    ) -> tuple[Head, Any]:
        """The frozen networks' head, and what of their collections changed."""
        own = [k for k in variables if k != "params"] if rngs else []
        options = parts.samples(model, draws, name)

        def run(model: Portrait) -> Head:
            train = bool(rngs)
            canonical = model.canonical(frames.model_input(frames.source_truth(batch).head, model), train=train)
            motion = model.motion(frames.pncc_stack(batch, pncc), train=train)
            return model.head(model.fuse(canonical, motion), camera, **options)

        out: tuple[Head, Any] = jax.lax.stop_gradient(model.apply(variables, method=run, mutable=own, rngs=rngs))
        return out

    def step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, dict[str, Array]]:
        now, draws = state.step * config.pace, Draws(batch["example"], rng)
        own, trees = parts.of_model(state.model_state), state.model_state[parts.FROZEN]["perception"]
        source, target = frames.source_truth(batch), frames.target_truth(batch)
        fixed = {k: v for k, v in state.params.items() if k not in (PART, NAME)}
        rngs = parts.dropout(rng) if config.frozen_as_in_training else None
        before, around = {"params": state.params, **own}, surroundings(model, batch, config.background)

        def head_at(name: str, pncc: Array, camera: Array) -> tuple[Head, Any]:
            return head_of(before, batch, pncc, camera, draws, rngs, name)

        head, of_frozen = head_at("mv", batch["pncc_target"], batch["target_camera"])

        def loss(trained: Any) -> tuple[Array, Any]:
            variables = {"params": {**fixed, PART: trained}, **own, **of_frozen}

            def draw(name: str, head: Head, camera: Array, truth: frames.Truth) -> Any:
                points = keypoints_of(model, truth)
                frame, changed = fuse(model, variables, head, around, points, train=True, mutable=list(own))
                image = terms.clamped(frame.rgb)
                out = compare(name, trees, image, truth)
                seen = Shown(image, terms.clamped(head.rgb), camera)
                if judge:
                    out[f"{name}_adv"] = judge.fool(state.params[NAME], seen, draws, now, name)
                return out, changed, frame, seen

            values, changed, frame, seen = draw("mv", head, batch["target_camera"], target)

            def again() -> Any:
                head, _ = head_at("ref", batch["pncc_source"], batch["source_camera"])
                return draw("ref", head, batch["source_camera"], source)[0]

            values |= parts.sometimes(parts.every(state.step, config.ref_every), again, parts.renamed(values))
            values |= occlusion_losses(frame.torso, (target.torso_mask > 0.5).astype(jnp.float32))
            if unsupervised(model):
                warp = warp_of(draws.normal("affine", (2, 3)), draws.normal("bend", (25, 2)))
                values["equivariance"], changed = model.apply(
                    {**variables, **changed}, target.image, warp, train=True, mutable=list(own), method="equivariance"
                )
            return terms.total(values, factors), ({**of_frozen, **changed}, values, seen)

        (total, (changed, metrics, fake)), grads = jax.value_and_grad(loss, has_aux=True)(state.params[PART])
        grads = parts.gradients(state.params, {PART: grads})
        if judge:
            raw = terms.shrink(target.head, model.raw_resolution)
            real = {"mv": Shown(target.image, raw, batch["target_camera"])}
            grads[NAME], of_judge = judge.learn(state.params[NAME], real, {"mv": fake}, draws, now)
            metrics |= of_judge
        state = states.apply_gradients(state, grads, {**state.model_state, **changed}, optimizer, config.average_decay)
        return state, {"loss": total, **metrics}

    def predict(state: TrainState, batch: Batch) -> tuple[Head, FusionOutput]:
        variables = state.variables(averaged=True)
        head, _ = head_of(variables, batch, batch["pncc_target"], batch["target_camera"], None, None, "")
        around, points = surroundings(model, batch, config.background), keypoints_of(model, frames.target_truth(batch))
        return head, fuse(model, variables, head, around, points, train=False, mutable=[])[0]

    def evaluate(state: TrainState, batch: Batch) -> dict[str, Array]:
        _, frame = predict(state, batch)
        image, target = terms.clamped(frame.rgb), frames.target_truth(batch)
        out = compare("mv", state.model_state[parts.FROZEN]["perception"], image, target)
        return {"loss": terms.total(out, factors), **out, "mv_psnr": losses.psnr(image, target.image)}

    predict_once = jax.jit(predict)

    def preview(state: TrainState, batch: Batch) -> dict[str, np.ndarray]:
        head, frame = predict_once(state, batch)
        source, target = (frames.to_float(batch[k]) for k in ("source", "target"))
        picture = parts.strip(
            source, target, terms.clamped(frame.rgb), head.rgb, frame.torso.rgb, parts.depth_picture(head.depth)
        )
        return {"source_target_image_raw_torso_depth": picture}

    batches, held_out = frames.streams(config, size, data.KEYS)

    def example() -> Batch:
        return data.like(data.KEYS, size, config.data.pncc_size)

    return Stage(init, step, batches, preview, evaluate, held_out, example)
