"""t2i info: the kind of a file or folder that t2i made, and its facts."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from t2i.cli import console
from t2i.cli.options import Json
from t2i.errors import UserError
from t2i.files import first_line, read_json, shell_word


def info(
    path: Annotated[Path, Argument(help="Data set, run, checkpoint, model or generated image.", show_default=False)],
    json: Json = False,
) -> None:
    """Describe a prepared data set, a run, a checkpoint, a model or a generated image."""
    title, facts = describe(path)
    if json:
        console.print_json({"kind": title, "path": str(path), **facts})
    else:
        # In JSON the keys are those of dataset.json.
        console.table(f"{path}: {title}", {name.replace("pictures", "images"): fact for name, fact in facts.items()})


def describe(path: Path) -> tuple[str, dict[str, Any]]:
    """The kind of a path, and its facts. Raises UserError, one line, where t2i did not make it."""
    if not any((path / marker).is_file() for marker in KINDS):
        from t2i.models.find import find_model

        path = find_model(path)  # the built-in model has a name; a snapshot may hold a model alone
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    for marker, (kind, read) in KINDS.items():
        if (path / marker).is_file():
            try:
                return kind, read(path)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{path}: a damaged {kind} ({marker} lacks {first_line(error)})") from error
    from t2i.image_files import READABLE, read_image_text

    if path.is_file() and path.suffix.lower() in READABLE and "software" in (facts := read_image_text(path)):
        return "image", facts
    raise UserError(
        f"{path}: nothing that t2i made (no dataset.json, config.json, state.json or model_index.json in it)"
    )


def _dataset(path: Path) -> dict[str, Any]:
    from t2i.data.prepared import PreparedDataset

    dataset = PreparedDataset(path)
    dataset.check()
    info, text = dataset.info, dataset.info["text"]
    return {
        "name": info["name"], "split": info["split"], "resolution": info["resolution"],
        **dataset.form.describe(),
        "pictures": info["pictures"], "captions": info["captions"], "caption uses": info["caption_uses"],
        "skipped": sum(info["skipped"].values()), "text encoder": text["name"], "text encoder sha256": text["sha256"],
        "tokens": text["tokens"], "source": info["source"], "fingerprint": info["fingerprint"],
    }  # fmt: skip


def _unfinished(path: Path) -> dict[str, Any]:
    plan = read_json(path / "plan.json")
    shards = [read_json(shard) for shard in path.glob("shard-*.json")]
    shares = {share.stem.removeprefix("share-"): read_json(share)["done"] for share in path.glob("share-*.json")}
    return {
        "name": plan["name"], "split": plan["split"], "resolution": plan["resolution"], "source": plan["source"],
        "images so far": sum(shard["pictures"] for shard in shards),
        **{f"part {name}": "done" if done else "not done" for name, done in sorted(shares.items())},
        "go on": "the command that began it, with the same options",
    }  # fmt: skip


def _run(path: Path) -> dict[str, Any]:
    from t2i.models.find import list_snapshots
    from t2i.training.checkpoint import list_checkpoints, verify
    from t2i.training.metrics import read_metrics
    from t2i.training.run import Run

    run = Run(path)
    settings, data = run.read_config()
    checkpoints, damaged = [], []
    for checkpoint in list_checkpoints(run.checkpoints):
        checkpoints.append(checkpoint.name)
        try:
            verify(checkpoint)
        except UserError as error:
            damaged.append(str(error))
    lines = read_metrics(path / "metrics.jsonl") if (path / "metrics.jsonl").is_file() else []
    metrics = dict(lines[-1]) if lines else {}
    stage = metrics.pop("resolution", data.get("resolution"))  # of the last logged step
    return {
        "architecture": settings.arch, "data": data.get("path"), "resolution": data.get("resolution"),
        **({"grown to": stage} if stage != data.get("resolution") else {}),
        "goal": f"{settings.schedule.kimg:g} kimg", "checkpoints": ", ".join(checkpoints) or "none",
        **({"damaged": "\n".join(damaged)} if damaged else {}),
        "snapshots": ", ".join(str(int(folder.name)) for folder in list_snapshots(run.checkpoints)) or "none",
        "has a model": run.model is not None, **metrics,
    }  # fmt: skip


def _checkpoint(path: Path) -> dict[str, Any]:
    from t2i.training.checkpoint import verify

    state = verify(path)
    settings = state["settings"]
    return {
        "architecture": settings["arch"], "images_seen": state["images_seen"], "verified files": len(state["files"]),
        "resume": f"t2i train --resume {shell_word(path.absolute().parent.parent)}",
    }  # fmt: skip


def _model(path: Path) -> dict[str, Any]:
    from t2i.models.folder import load_model

    generator, description, digest = load_model(path)
    stage = generator.growth.resolution
    parameters = sum(value.numel() for value in generator.parameters())
    return {
        "architecture": description.architecture, "resolution": description.resolution,
        **description.form.describe(), **({"grown to": stage} if stage < description.resolution else {}),
        "conditioning": description.conditioning, "parameters": parameters, "sha256": digest,
        "text encoder": description.text_encoder["name"], **description.training,
        "made with": f"t2i {read_json(path / 'model_index.json').get('t2i_version')}",
    }  # fmt: skip


KINDS = {
    "plan.json": ("unfinished data set", _unfinished),
    "dataset.json": ("prepared data set", _dataset),
    "state.json": ("checkpoint", _checkpoint),
    "model_index.json": ("model", _model),
    "config.json": ("run", _run),
}
