"""Damage to files, and deaths in the middle of writing them."""

import functools
import os
import random
import signal

import torch
from short_runs import config
from small import WIDTH, networks

from t2i.models.folder import ModelDescription, load_model, save_model
from t2i.toml_tables import nest
from t2i.training.checkpoint import save_checkpoint

ENCODER = {"name": "hash", "sha256": "0" * 64, "width": WIDTH, "max_tokens": 16}


def truncations_and_flips(files, truncations, flips, seed):
    """(what, file, damaged bytes): seeded damage to one of the files, each file as likely as its size says, and the
    small ones a little likelier."""
    chance = random.Random(seed)
    contents = {file: data for file in files if (data := file.read_bytes())}
    weights = [len(data) + 2000 for data in contents.values()]
    for number in range(truncations + flips):
        file = chance.choices(list(contents), weights)[0]
        data = bytearray(contents[file])
        at = chance.randrange(len(data))
        if number < truncations:
            yield f"{file.name} cut at {at}", file, bytes(data[:at])
        else:
            bit = chance.randrange(8)
            data[at] ^= 1 << bit
            yield f"{file.name} bit {at}.{bit}", file, bytes(data)


def one_line(error):
    text = str(error)
    assert "\n" not in text and len(text) < 600, text
    return text


def killed_at(number, work):
    """Run `work` in a child process that dies (kill -9) before call `number` that changes the disk; True if it did."""
    process = os.fork()
    if process == 0:
        calls = 0

        def counting(call):
            def wrapper(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)

            return wrapper

        try:
            for name in ("replace", "rename", "unlink", "rmdir", "fsync"):
                setattr(os, name, counting(getattr(os, name)))
            work()
        finally:
            os._exit(0)
    status = os.waitpid(process, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


def parts(seed=0):
    """A small network and its optimiser with state, as a run has them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 8))
        optimizer = torch.optim.Adam(network.parameters())
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return {"generator": network, "optimizer_g": optimizer}


def state(images):
    settings = nest({"arch": "dfgan", "optim.lr_g": 1e-4, "loss.adversarial.augment": ["colour"], "name": "Bäume"})
    return {
        "images_seen": images,
        "seconds": 12.25,
        "settings": settings,
        "scalers": {"D": {}, "G": {"scale": 65536.0}},
    }


@functools.cache
def generator(seed=0, arch="dfgan", growth=None):
    """A generator and its description; growth: (resolution, alpha)."""
    settings = config(arch, **{"run.seed": seed})
    network, _ = networks(arch, **{"schedule.growing": growth is not None, "run.seed": seed})
    text = {"conditioning": "attention", "layers": settings.text.layers, "lr_multiplier": settings.text.lr_multiplier}
    return network, ModelDescription(
        arch, 16, ENCODER, text, settings.generator, list(network.rgb_resolutions), growth and list(growth),
        {"prompts": ["a tree"], "images_seen": seed},
    )  # fmt: skip


def weights(folder):
    return {name: value.clone() for name, value in load_model(folder)[0].state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def save(root, images, **how):
    """A snapshot with a small network, its optimiser, and a model."""
    return save_checkpoint(
        root, state(images), parts(images), lambda folder: save_model(folder, *generator(images)), **how
    )
