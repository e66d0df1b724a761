"""A complete run on real handwritten digits that ship inside scikit-learn: no download.

python -m accordion_jax.main --config=configs/quickstart.py

A network of nine blocks trained with CoML-05 on 1,437 images of 8 x 8 pixels. Table and picture in
about a minute on two CPU cores.
"""

from accordion_jax.runs.config import default_config


def get_config():
    config = default_config()
    config.name = "quickstart"
    config.model.arguments.stage_sizes = (3, 3, 3)
    config.policy.min_depth = 0  # the base alone is trained too: a device runs it first
    config.data.name = "digits"
    config.data.pad = 1
    config.data.flip = False  # a mirrored digit is another sign, or none
    config.train.epochs = 20.0
    config.train.batch_size = 64
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 2.0
    config.optimizer.nesterov = True
    config.run.log_every_steps = 22
    config.run.checkpoint_every_epochs = 10.0
    return config
