"""Train on a folder of images that have their captions beside them (x.jpg, x.txt), and draw with the model.

python own_folder.py FOLDER "a prompt" [MINUTES]
"""

import sys

from t2i import PreparedDataset, TextToImagePipeline
from t2i.data.prepare import PrepareOptions, prepare
from t2i.data.sources import FolderPairSource
from t2i.device import mixed_precision, pick_device
from t2i.text.encoders import load_encoder
from t2i.training.loop import train
from t2i.training.run import Run
from t2i.training.settings import new_settings


def main(folder: str, prompt: str, minutes: str = "30") -> None:
    device = pick_device("auto")
    prepare(
        FolderPairSource(folder), "own-64", load_encoder(device=device), PrepareOptions(resolution=64), overwrite=True
    )
    data = PreparedDataset("own-64")
    flags = {"arch": "stylegan2", "schedule.minutes": float(minutes), "optim.precision": mixed_precision(device)}
    config, _ = new_settings(data, flags, None, device.type)
    run = Run.begin("runs", config, data, device)
    train(config, data, run, device, on_status=lambda status: print(f"{status.images_seen:,} images"))
    pipe = TextToImagePipeline.from_pretrained(run.folder)
    for seed, image in enumerate(pipe(prompt, seeds=range(4)).images):
        image.save(f"own-{seed}.png")


if __name__ == "__main__":  # prepare starts processes, which read this file again
    main(*sys.argv[1:])
