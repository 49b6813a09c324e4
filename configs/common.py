"""What every stage's config has."""

from ml_collections import ConfigDict


def base(stage: str) -> ConfigDict:
    """Fields that the training loop and the optimiser read; a stage's config changes and adds."""
    return ConfigDict(
        dict(
            stage=stage,
            seed=0,
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
            log_every=20,
            checkpoint_every=200,
            checkpoints_kept=2,
            preview_every=200,
        )
    )
