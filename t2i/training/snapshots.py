"""What a run writes at a snapshot: a checkpoint with its model, a sample grid, the curves."""

from pathlib import Path

from t2i.config import TrainConfig
from t2i.data.prepared import PreparedDataset
from t2i.models.base import Generator
from t2i.models.folder import ModelDescription, save_model
from t2i.models.growing import Growth
from t2i.training.checkpoint import save_checkpoint
from t2i.training.plots import draw_losses
from t2i.training.previews import Preview
from t2i.training.progress import Progress
from t2i.training.run import Run
from t2i.training.schedule import Schedule
from t2i.training.text import PreparedText, TrainedText
from t2i.training.trainer import Trainer


class Snapshots:
    """Writes those of a run."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: PreparedDataset,
        text: PreparedText | TrainedText,
        run: Run,
        trainer: Trainer,
        schedule: Schedule,
    ):
        self.config, self.dataset, self.text, self.run = config, dataset, text, run
        self.trainer, self.schedule = trainer, schedule
        self.preview = Preview(dataset, text, trainer.generator.z_dim, trainer.device, config.run.sample_prompts)

    def save_reals(self) -> None:
        """The real images of the sample grid, once."""
        if not (path := self.run.samples / "reals.png").is_file():
            self.preview.save_reals(path)

    def model(self, images_seen: int) -> tuple[Generator, ModelDescription, Growth]:
        """The averaged generator after so many images, its description, and where it stands."""
        growth, trainer, config = self.schedule.growth_after(images_seen), self.trainer, self.config
        grown = growth == Growth(self.dataset.resolution)
        training = {
            "data": f"{self.dataset.name} ({self.dataset.split}, {len(self.dataset):,} images)",
            "data_fingerprint": self.dataset.fingerprint,
            "images_seen": images_seen,
            "prompts": self.preview.prompts,
        }
        description = ModelDescription(
            architecture=config.arch,
            resolution=self.dataset.resolution,
            text_encoder=self.text.describe(),
            text={
                "conditioning": config.text.conditioning,
                "layers": config.text.layers,
                "lr_multiplier": config.text.lr_multiplier,
            },
            generator=dict(config.generator),
            rgb_resolutions=list(trainer.generator.rgb_resolutions),
            growth=None if grown else [growth.resolution, float(growth.alpha)],
            training=training,
            form=self.dataset.form,
        )
        return trainer.ema.model, description, growth

    def save(self, progress: Progress) -> Path:
        """Write the snapshot of the images seen so far, and return the file of its sample grid.

        Raises UserError, one line; what was there before stays.
        """
        trainer, seen = self.trainer, progress.images_seen
        model, description, growth = self.model(seen)
        sheet = self.run.samples / f"{seen:09d}.png"
        self.preview.save(model, growth, sheet, f"{seen:,} images seen")
        facts = {
            "images_seen": seen,
            "images_before": trainer.images_before,
            "seconds": progress.seconds,
            "rollbacks": progress.rollbacks,
            "settings": self.config.tables(),
            "scalers": {name: scaler.state_dict() for name, scaler in trainer.scalers.items()},
        }

        def write_model(folder: Path) -> None:
            self.text.save(folder)
            save_model(folder, model, description)

        best = self.run.read_best()
        save_checkpoint(
            self.run.checkpoints, facts, trainer.parts, write_model,
            keep=self.config.run.keep_snapshots,
            spare=best.get("snapshot") if best else None,
            before=progress.saved_images,
        )  # fmt: skip
        draw_losses(self.run.folder / "metrics.jsonl", self.run.folder / "losses.png")
        return sheet
