"""The head stage (Real3D-Portrait, section 3.2): the motion adapter from scratch, the rest fine-tuned, on frame pairs.

From a source frame and the PNCC of another frame of the clip the model draws that frame's head (`mv`) and, every
`ref_every` steps, the source's own (`ref`). Terms in logs and the original's names for them:

    mv_l1, mv_raw_l1, mv_lpips, mv_raw_lpips    G_th1kh_mv_img_mae(_raw), _img_lpips(_raw); masked_error_loss
    mv_lip_l1, mv_lip_lpips                     G_th1kh_mv_img_lip_mae, _lip_lpips
    mv_weight_l1, mv_weight_entropy             G_th1kh_mv_weights_l1_loss, _weights_entropy_loss
    mv_adv; all of these as ref_*               G_th1kh_mv_adv
    density_l1                                  G_th1kh_regularize_density_l1
    laplacian                                   the paper's L_Lap; not in the original
    perturb, blink                              G_th1kh_regularize_pertube_secc_mae, _blink_secc_mae
    tuned_perturb, tuned_blink                  lambda_pertube_secc, lambda_pertube_blink_secc
    d_real, d_fake, d_r1                        D_maximize_*, D_minimize_*_fake, D_*_gradient_penalty

The paper's L_Lap is the squared distance of a frame's motion diff-planes from the mean of both neighbours', a mean over
planes with unit weight. The original has instead one of three perturbations (`perturb.kind`: `noise` of identity and
expression, `variation` against the frame before, `laplacian` with a mirrored neighbour) and a term on blinks, each with
a weight that keeps it near a goal; a goal of 0 switches a term off.

Two stages in one run: from `adversary.start` on only the super-resolution is trained (with `two_stage`).

Options that bring back what the original does: `mask_defect` (the large target image weighs 0.6 on the head and -0.2
beside it, clipped at 0), `perceptual.signed`, `loss.laplacian=0`. What differs on purpose: quantiles of the masked
error are each image's own (the same at the original's batch of one), dropout masks are the same for planes that are
compared, and lids shut by expression units, not by editing PNCC images.
"""

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import losses, schedules
from r3p import state as states
from r3p.errors import InputError
from r3p.stages import Batch, Stage, adversary, frames, parts, pretrained, terms
from r3p.stages.adversary import NAME, Shown
from r3p.stages.draws import Draws
from r3p.state import TrainState

Array = jax.Array
GROUPS = (
    ("^(img2plane|grid)/", "img2plane"),
    ("^adapter/", "adapter"),
    ("^decoder/", "decoder"),
    ("^superres/", "superres"),
)
PERTURBATIONS = ("noise", "variation", "laplacian")


def keys(config: ConfigDict) -> tuple[str, ...]:
    """What of an example this config reads, see `data_pipelines.frames`."""
    from data_pipelines import frames as data

    kind = config.perturb.kind
    out: tuple[str, ...] = data.KEYS
    if kind not in PERTURBATIONS:
        raise InputError(f"perturb.kind is {kind!r}: choose one of {', '.join(PERTURBATIONS)}")
    perturbs = config.perturb.goal > 0
    if config.loss.laplacian > 0 or (perturbs and kind != "noise"):
        out += data.MOTION
    if perturbs and kind == "noise":
        out += data.PERTURBED
    if config.blink.goal > 0:
        out += data.BLINKED
    return out


def rates(config: ConfigDict, now: Array) -> dict[str, Array]:
    """Learning rates of the groups at a step of the schedule, 0 for what is frozen then."""
    start = config.adversary.start
    out = schedules.head_rates(
        now,
        rate=config.learning_rate,
        image_to_plane_factor=config.img2plane_factor,
        image_to_plane_ramp=max(start, 0) + 20_000,
        image_to_plane_stop=config.img2plane_stop,
        decoder_start=config.decoder_start,
        superres_start=config.superres_start,
    )
    if config.two_stage and start >= 0:
        for name in ("img2plane", "adapter", *(() if config.decoder_always else ("decoder",))):
            out[name] = jnp.where(now < start, out[name], 0.0)
    return out


def make(config: ConfigDict) -> Stage:
    """The stage from its config (`configs/motion2plane.py`)."""
    from data_pipelines import frames as data

    model = parts.build(config, torso=False)
    size = model.frame_size
    perception = terms.Perception(config.perceptual)
    judge = adversary.make(config.adversary, size)
    factors = config.loss.to_dict()
    found, found_judge = pretrained.read(config.start) if config.start else (None, None)
    if config.discriminator:
        found_judge = pretrained.discriminator(config.discriminator)
    wanted = keys(config)
    mirrored = config.perturb.goal > 0 and config.perturb.kind == "laplacian"
    if mirrored and config.loss.laplacian > 0:
        raise InputError(
            "perturb.kind=laplacian mirrors a neighbour while loss.laplacian wants the true ones: set loss.laplacian=0 "
            "or perturb.goal=0"
        )

    def init_variables(rng: Array) -> Any:
        variables = frames.init_variables(model, config, rng, method="animate")
        return variables if found is None else pretrained.graft(variables, found, config.start)[0]

    def shapes(rng: Array) -> Any:
        params = dict(init_variables(rng)["params"])
        return params | ({NAME: judge.init(rng)} if judge else {})

    like = jax.eval_shape(shapes, jax.random.key(0))
    parts.tell_start(like, found, config.start)
    optimizer = parts.optimizer(config, like, GROUPS, partial(rates, config), judge)

    def init(rng: Array) -> TrainState:
        tuned = {name: jnp.float32(config.tuning.first) for name in ("perturb", "blink")}
        return parts.first_state(
            init_variables(rng), optimizer, judge, jax.random.fold_in(rng, 1),
            frozen={"perception": perception.init()}, tuned=tuned, judge=found_judge,
        )  # fmt: skip

    @jax.jit  # it is called for several maps, and need be traced once only
    def motion_of(variables: Any, stack: Array, rngs: Any) -> tuple[Array, Any]:
        own = [k for k in variables if k != "params"]
        out: tuple[Array, Any] = model.apply(variables, stack, method="motion", train=True, mutable=own, rngs=rngs)
        return out

    show = parts.shower(model)

    def compare(
        prefix: str, trees: Any, image: Array, small: Array, weight: Array, truth: frames.Truth
    ) -> dict[str, Array]:
        """Terms of one clamped image, raw image and its rays' weights."""
        defect = prefix == "mv" and config.mask_defect
        inside, outside = (0.6, -0.2) if defect else (1.0, config.outside)
        wide = terms.grown(truth.head_mask, config.mask_dilation)
        narrow = terms.shrink(truth.head_mask, small.shape[1])
        raw = terms.shrink(truth.head, small.shape[1])
        wide_raw = terms.shrink(wide, small.shape[1])
        squared = config.reconstruction == "mse"
        out = {
            f"{prefix}_l1": losses.masked_error(
                image, truth.head, wide, inside=inside, outside=outside, squared=squared, each=True
            ),
            f"{prefix}_raw_l1": losses.masked_error(
                small, raw, wide_raw, outside=config.outside, squared=squared, each=True
            ),
        }
        out |= frames.perceived(prefix, perception, trees, image, truth.head, small, raw)
        out |= frames.lip_terms(prefix, perception, trees, image, truth.head, truth.keypoints, config.lip_size)
        return out | {f"{prefix}_{k}": v for k, v in terms.weight_terms(weight, narrow).items()}

    def regularisers(planes_of: Any, batch: Batch, due: Array) -> dict[str, Array]:
        """Of the adapter. `planes_of`: PNCC maps of targets (uint8) -> motion diff-planes."""

        def chosen(flag: str) -> Array:
            of_source = (batch[flag] > 0).reshape(-1, 1, 1, 1)
            return jnp.where(of_source, batch["pncc_source"], batch["pncc_target"])

        def perturb() -> Array:
            if config.perturb.kind == "noise":
                pair = chosen("perturbed_source"), batch["pncc_perturbed"]
                return jnp.abs(planes_of(pair[0]) - planes_of(pair[1])).mean()
            here, before = planes_of(batch["pncc_target"]), planes_of(batch["pncc_before"])
            if config.perturb.kind == "variation":
                return jnp.abs(here - before).mean()
            return terms.laplacian(before, here, planes_of(batch["pncc_after"]), squared=False)

        def blink() -> Array:
            return terms.laplacian(*(planes_of(batch["pncc_blink"][:, k]) for k in range(3)), squared=False)

        out = {}
        if config.perturb.goal > 0:
            out["perturb"] = parts.lazily(due, perturb)
        if config.blink.goal > 0:
            out["blink"] = parts.lazily(due, blink)
        return out

    def step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, dict[str, Array]]:
        now, draws = state.step * config.pace, Draws(batch["example"], rng)
        own, trees = parts.of_model(state.model_state), state.model_state[parts.FROZEN]["perception"]
        tuned = state.model_state[parts.TUNED]
        source, target = frames.source_truth(batch), frames.target_truth(batch)
        due = parts.every(state.step, config.regularise_every)
        late = now >= config.adversary.start if judge and config.two_stage else jnp.zeros((), bool)
        trained = {k: v for k, v in state.params.items() if k != NAME}
        rngs = parts.dropout(rng)

        def loss(trained: Any) -> tuple[Array, Any]:
            variables = {"params": trained, **own}
            canonical, changed = model.apply(
                variables, frames.model_input(source.head, model), method="canonical", train=True, mutable=list(own),
                rngs=rngs,
            )  # fmt: skip

            def planes_of(pncc: Array) -> Array:
                return motion_of({**variables, **changed}, frames.pncc_stack(batch, pncc), rngs)[0]

            stack = frames.pncc_stack(batch, batch["pncc_target"])
            motion, after = motion_of({**variables, **changed}, stack, rngs)
            changed = {**changed, **after}

            def draw(name: str, motion: Array, camera: Array, truth: frames.Truth) -> Any:
                head, image = show(variables, model.fuse(canonical, motion), camera, draws, name)
                image, small = terms.clamped(image), terms.clamped(head.rgb)
                out = compare(name, trees, image, small, head.weight, truth)
                if judge:
                    seen = Shown(image, small, camera)
                    out[f"{name}_adv"] = judge.fool(state.params[NAME], seen, draws, now, name)
                return out, image, small

            values, image, small = draw("mv", motion, batch["target_camera"], target)

            def again() -> Any:
                return draw("ref", planes_of(batch["pncc_source"]), batch["source_camera"], source)[0]

            values |= parts.sometimes(parts.every(state.step, config.ref_every), again, parts.renamed(values))
            points = draws.uniform("points", (config.density_points, 3)) - 0.5
            shift = config.density_distance * draws.normal("shift", (config.density_points, 3))
            values["density_l1"] = parts.lazily(
                due,
                lambda: terms.density_l1(
                    model, variables, model.fuse(canonical, motion), points * model.box_warp, shift
                ),
            )
            if factors["laplacian"] > 0:
                before, following = (planes_of(batch[k]) for k in data.MOTION)
                values["laplacian"] = terms.laplacian(before, motion, following)
            values |= regularisers(planes_of, batch, due)
            weights: dict[str, Any] = dict(factors)
            weights["density_l1"] *= config.regularise_every
            weights |= {k: tuned[k] * config.regularise_every for k in ("perturb", "blink")}
            if config.large_terms_early:
                weights |= {k: jnp.where(late, 0.0, weights[k]) for k in ("mv_l1", "mv_lpips")}
            fake = Shown(image, small, batch["target_camera"])
            return terms.total(values, weights), (changed, values, fake)

        (total, (changed, metrics, fake)), grads = jax.value_and_grad(loss, has_aux=True)(trained)
        if judge:
            real = {"ref": source.shown(model), "mv": target.shown(model)}
            grads[NAME], of_judge = judge.learn(state.params[NAME], real, {"mv": fake}, draws, now)
            metrics |= of_judge
        after = dict(tuned)
        for name, options in (("perturb", config.perturb), ("blink", config.blink)):
            if options.goal > 0:
                new = terms.self_tuned(
                    tuned[name], metrics[name], goal=options.goal, rate=config.tuning.rate, top=options.top
                )
                after[name] = jnp.where(due, new, tuned[name])
                metrics[f"tuned_{name}"] = after[name]
        model_state = {**state.model_state, **changed, parts.TUNED: after}
        state = states.apply_gradients(state, grads, model_state, optimizer, config.average_decay)
        return state, {"loss": total, **metrics}

    def predict(state: TrainState, batch: Batch) -> Any:
        variables, source = state.variables(averaged=True), frames.source_truth(batch)
        canonical = model.apply(variables, frames.model_input(source.head, model), method="canonical")
        motion = model.apply(variables, frames.pncc_stack(batch, batch["pncc_target"]), method="motion")
        planes = model.fuse(cast(Array, canonical), cast(Array, motion))
        return show(variables, planes, batch["target_camera"], None, "")

    def evaluate(state: TrainState, batch: Batch) -> dict[str, Array]:
        head, image = predict(state, batch)
        trees = state.model_state[parts.FROZEN]["perception"]
        out = compare(
            "mv", trees, terms.clamped(image), terms.clamped(head.rgb), head.weight, frames.target_truth(batch)
        )
        psnr = losses.psnr(terms.clamped(image), frames.target_truth(batch).head)
        return {"loss": terms.total(out, factors), **out, "mv_psnr": psnr}

    predict_once = jax.jit(predict)

    def preview(state: TrainState, batch: Batch) -> dict[str, np.ndarray]:
        head, image = predict_once(state, batch)
        source, target = frames.source_truth(batch), frames.target_truth(batch)
        pncc = frames.to_float(batch["pncc_target"])
        picture = parts.strip(
            source.head, target.head, terms.clamped(image), head.rgb, parts.depth_picture(head.depth), pncc
        )
        return {"source_target_image_raw_depth_pncc": picture}

    batches, held_out = frames.streams(config, size, wanted, extrapolated=mirrored)

    def example() -> Batch:
        return data.like(wanted, size, config.data.pncc_size)

    return Stage(init, step, batches, preview, evaluate, held_out, example)
