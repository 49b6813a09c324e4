"""Image-to-plane: distils a frozen 3D teacher (Real3D-Portrait, section 3.1), its networks trained from two views.

A head is shown from two cameras; from the first picture the model has to draw the second (`mv`) and, now and then, the
first again (`ref`). Terms in logs and the original's names for them:

    mv_l1, mv_raw_l1, ref_*         G_{mv,ref}_img_mae(_raw)
    mv_lpips, mv_raw_lpips, ref_*   G_{mv,ref}_img_lpips(_raw)
    mv_depth_l1                     G_mv_img_mae_depth, never part of the loss
    mv_adv, ref_adv                 G_{mv,ref}_adv
    density_l1                      G_regularize_density_l1
    d_real, d_fake, d_r1            D_maximize_*, D_minimize_*_fake, D_*_gradient_penalty, each summed over both views

What differs from the original, on purpose: the two views' losses are summed to one optimiser step instead of two; the
planes of the first view serve the density term too; the refiner of tri-grids is trained with image-to-plane; rescaled
planes keep their arrays' size, and both passes of a ray see the same size. The paper gives L1, the code has squares as
an option (`reconstruction="mse"`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import camera, schedules
from r3p import state as states
from r3p.models import layers
from r3p.stages import Batch, Stage, adversary, parts, pretrained, teacher, terms
from r3p.stages.adversary import NAME, Shown
from r3p.stages.draws import Draws
from r3p.state import TrainState

Array = jax.Array
GROUPS = (("^(img2plane|grid)/", "img2plane"), ("^decoder/", "decoder"), ("^superres/", "superres"))


def shows_source(step: Array, now: Array, config: ConfigDict) -> Array:
    """Whether the source itself is reconstructed: seldom at first, lest the model should learn flat billboards.

    step: ours; now: the schedule's. Every `ref_every`-th step before `ref_half`, every second until `ref_always`.
    """
    often = jnp.where(now < config.ref_half, step % config.ref_every == 0, step % 2 == 0)
    return often | (now >= config.ref_always)


def make(config: ConfigDict) -> Stage:
    """The stage from its config (`configs/img2plane.py`)."""
    model = parts.build(config, torso=False)
    size, raw = model.frame_size, model.raw_resolution
    source = teacher.make(config, size, raw)
    perception = terms.Perception(config.perceptual)
    judge = adversary.make(config.adversary, size)
    factors = config.loss.to_dict()
    found, found_judge = pretrained.read(config.start) if config.start else (None, None)
    if config.discriminator:
        found_judge = pretrained.discriminator(config.discriminator)

    def init_variables(rng: Array) -> Any:
        image = jnp.zeros((1, model.source_size, model.source_size, 3))
        arguments = image, camera.from_pose(jnp.zeros((1, 3)), jnp.zeros((1, 3)))
        # Behind a barrier: the compiler would compute the whole network's answer to constants.
        variables = dict(model.init(rng, *jax.lax.optimization_barrier(arguments), method="reconstruct"))
        if source.start() and config.start_from_teacher:
            variables, _ = pretrained.graft(variables, {"params": source.start()}, "the teacher")
        if found is not None:
            variables, _ = pretrained.graft(variables, found, config.start)
        return variables

    def shapes(rng: Array) -> Any:
        params = dict(init_variables(rng)["params"])
        return params | ({NAME: judge.init(rng)} if judge else {})

    def rates(now: Array) -> dict[str, Array]:
        return schedules.image_to_plane_rates(
            now,
            rate=config.learning_rate,
            decoder_start=config.decoder_start,
            adversarial_start=config.superres_start,
        )

    like = jax.eval_shape(shapes, jax.random.key(0))
    parts.tell_start(like, found, config.start)
    optimizer = parts.optimizer(config, like, GROUPS, rates, judge)

    def init(rng: Array) -> TrainState:
        frozen = {"teacher": source.init(), "perception": perception.init()}
        return parts.first_state(
            init_variables(rng), optimizer, judge, jax.random.fold_in(rng, 1), frozen=frozen, judge=found_judge
        )

    show = parts.shower(model)

    def compare(prefix: str, trees: Any, image: Array, small: Array, view: teacher.View) -> dict[str, Array]:
        """Reconstruction terms of a clamped image and raw image."""
        out = {
            f"{prefix}_l1": terms.image_l1(image, view.image, config.reconstruction),
            f"{prefix}_raw_l1": terms.image_l1(small, view.raw, config.reconstruction),
        }
        if perception:
            out[f"{prefix}_lpips"] = perception(trees, image, view.image)
            out[f"{prefix}_raw_lpips"] = perception(trees, small, view.raw)
        return out

    def depth_error(head: Any, view: teacher.View) -> Array:
        known = (view.depth > 0).astype(jnp.float32)
        return (jnp.abs(head.depth - view.depth) * known).sum() / jnp.maximum(known.sum(), 1.0)

    def student_input(view: teacher.View) -> Array:
        return layers.resize(view.image, (model.source_size,) * 2, antialias=True)

    def step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, dict[str, Array]]:
        now, draws = state.step * config.pace, Draws(batch["example"], rng)
        own, frozen = parts.of_model(state.model_state), state.model_state[parts.FROZEN]
        with jax.named_scope("teacher"):
            ref, mv = source.views(frozen["teacher"], batch, draws)
        with_ref = shows_source(state.step, now, config)
        trained = {k: v for k, v in state.params.items() if k != NAME}

        def loss(trained: Any) -> tuple[Array, Any]:
            variables = {"params": trained, **own}
            planes, changed = model.apply(
                variables, student_input(ref), method="canonical", train=True, mutable=list(own),
                rngs=parts.dropout(rng),
            )  # fmt: skip
            side = planes.shape[-2]
            if config.rescale_planes < 1:
                low = int(side * config.rescale_planes)
                planes_shown = terms.coarsened(planes, low + jnp.floor(draws.uniform("planes") * (side - low)))
            else:
                planes_shown = planes

            def draw(name: str, view: teacher.View) -> tuple[dict[str, Array], Any, Array, Array]:
                head, image = show(variables, planes_shown, view.camera, draws, name)
                image, small = terms.clamped(image), terms.clamped(head.rgb)
                out = compare(name, frozen["perception"], image, small, view)
                if judge:
                    seen = Shown(image, small, view.camera)
                    out[f"{name}_adv"] = judge.fool(state.params[NAME], seen, draws, now, name)
                return out, head, image, small

            values, head, image, small = draw("mv", mv)
            fake = {"mv": Shown(image, small, mv.camera)}

            def again() -> Any:
                values, _, image, small = draw("ref", ref)
                return values, image, small

            of_ref, image, small = parts.sometimes(with_ref, again, (parts.renamed(values), image, small))
            fake["ref"] = Shown(image, small, ref.camera)

            points = draws.uniform("points", (config.density_points, 3)) - 0.5
            shift = config.density_distance * draws.normal("shift", (config.density_points, 3))
            values["density_l1"] = parts.lazily(
                parts.every(state.step, config.density_every),
                lambda: terms.density_l1(model, variables, planes_shown, points * model.box_warp, shift),
            )
            values |= of_ref
            logged = {"mv_depth_l1": depth_error(jax.lax.stop_gradient(head), mv)}
            return terms.total(values, factors), (changed, {**values, **logged}, fake)

        (total, (changed, metrics, fake)), grads = jax.value_and_grad(loss, has_aux=True)(trained)
        if judge:
            real = {"mv": mv.shown, "ref": ref.shown}
            grads[NAME], of_judge = judge.learn(state.params[NAME], real, fake, draws, now, {"ref": with_ref})
            metrics |= of_judge
        state = states.apply_gradients(
            state, grads, {**state.model_state, **changed}, optimizer, config.average_decay
        )  # fmt: skip
        return state, {"loss": total, **metrics}

    def predict(state: TrainState, batch: Batch) -> Any:
        """Both views without jitter, and the averaged model's answers to them."""
        draws = Draws(batch["example"], jax.random.key(0))
        trees, variables = state.model_state[parts.FROZEN], state.variables(averaged=True)
        ref, mv = source.views(trees["teacher"], batch, draws)
        planes = model.apply(variables, student_input(ref), method="canonical")
        return ref, mv, [show(variables, planes, view.camera, None, "") for view in (ref, mv)]

    def evaluate(state: TrainState, batch: Batch) -> dict[str, Array]:
        ref, mv, shown = predict(state, batch)
        out: dict[str, Array] = {}
        for name, view, (head, image) in zip(("ref", "mv"), (ref, mv), shown, strict=True):
            trees = state.model_state[parts.FROZEN]["perception"]
            out |= compare(name, trees, terms.clamped(image), terms.clamped(head.rgb), view)
            out[f"{name}_depth_l1"] = depth_error(head, view)
        return {"loss": terms.total(out, factors), **out}

    predict_once = jax.jit(predict)

    def preview(state: TrainState, batch: Batch) -> dict[str, np.ndarray]:
        ref, mv, ((_, same), (head, image)) = predict_once(state, batch)
        picture = parts.strip(
            ref.image, mv.image, terms.clamped(image), head.rgb, parts.depth_picture(head.depth), terms.clamped(same)
        )
        return {"source_target_image_raw_depth_again": picture}

    held_out = source.held_out if config.held_out_batches else None
    return Stage(init, step, source.batches, preview, evaluate, held_out, source.example)
