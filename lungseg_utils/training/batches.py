"""The batches of an epoch: drawn, normalised, and laid out in memory as the network wants them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lungseg_utils.parameters import TrainingConfig
from lungseg_utils.patches import (
    NO_AUGMENTATION,
    Augmentation,
    TrainingCase,
    draw_batch,
    prefetch,
)
from lungseg_utils.preprocess import normalise
from lungseg_utils.training.distributed import seed_epoch, share_of_batch
from lungseg_utils.training.run import Run
from lungseg_utils.training.watching import count_off

Step = tuple[int, Tensor, Tensor, list[str]]


def epoch_batches(
    run: Run, cases: Sequence[TrainingCase], config: TrainingConfig
) -> Iterator[Step]:
    """Yield for each step its number, images and labels (B, 1, d, h, w), and the cases' names.

    Of several processes each draws its own share of every batch.
    """
    epoch = run.epoch
    seed_epoch(run.accelerator, run.generator, config.seed, epoch)
    part = share_of_batch(run.accelerator, config.batch_size)
    augmentation = augmentation_of(config)

    def draw() -> tuple[Tensor, Tensor, list[str]]:
        return draw_batch(
            cases,
            batch_size=config.batch_size,
            part=part,
            patch_size=config.patch_size,
            generator=run.generator,
            foreground_share=config.foreground_share,
            hard_example_share=config.hard_example_share,
            shares=config.shares,
            augmentation=augmentation,
        )

    count = config.steps_per_epoch
    description = f"epoch {epoch + 1} of {config.epochs}: steps"
    batches = count_off(prefetch(draw, count, run.device), description, count)
    for step, (hu, label, names) in enumerate(batches, start=epoch * count):
        image = normalise(hu).contiguous(memory_format=torch.channels_last_3d)
        yield step, image, label.float(), names


def augmentation_of(config: TrainingConfig) -> Augmentation:
    """Return how far `config` varies the patches."""
    if not config.augment:
        return NO_AUGMENTATION
    return Augmentation(
        elastic_voxels=config.elastic_voxels,
        low_resolution=config.low_resolution,
        field_of_view_crop=config.field_of_view_crop,
        cube=config.cube_share,
    )
