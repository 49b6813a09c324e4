"""What every stage's config has."""

from ml_collections import ConfigDict


def base(stage: str) -> ConfigDict:
    """Fields that the training loop and the optimiser read; a stage's config changes and adds."""
    return ConfigDict(
        dict(
            stage=stage,
            seed=0,
            # How numbers are drawn. rbg compiles ten times faster, but every device draws for the whole batch, 4 bytes
            # a ray's sample; with threefry2x32 each draws for its own rows, which is for large batches on many devices.
            random="rbg",
            batch_size=1,
            steps=1000,
            schedule_steps=0,  # where the learning rate ends its fall; 0 = at `steps`
            learning_rate=1e-3,
            warmup_steps=100,
            final_factor=0.02,
            learning_rate_factors=(),  # (regex of parameters' names, factor)
            steady=(),  # those of the regexes whose parameters keep their rate
            beta1=0.9,
            beta2=0.99,
            clip_norm=1.0,
            average_decay=0.999,
            dtype="float32",  # or bfloat16: what models that have a field `dtype` compute in; parameters stay float32
            remat="none",  # or products: see r3p.state.gradients
            accumulate=1,  # parts of a batch, one after the other; each has to divide among the devices
            # Axes of the devices (-1: the rest); fsdp splits parameters too, spatial splits rays. See r3p.sharding.
            mesh=dict(data=-1, fsdp=1, spatial=1),
            sharding_rules=(),  # (regex of parameters' names, "whole", "fsdp" or a mesh axis or None for each axis)
            fsdp_least=65536,  # smaller arrays are not split unless a rule says so
            read_ahead=2,  # batches that are read and sent to the devices while earlier steps compute
            log_every=20,
            checkpoint_every=200,
            checkpoints_kept=2,
            checkpoints_kept_every=0,  # steps between checkpoints that stay for good; 0 = none do
            preview_every=200,  # 0 = no pictures
            evaluate_every=1000,  # of stages that hold examples out; before the first step and after the last, too
        )
    )
