"""t2i export: a model in another format."""

from pathlib import Path
from typing import Annotated

from typer import Option

from t2i.cli import console
from t2i.cli.options import Json, ModelArgument, TextEncoderFolder
from t2i.errors import UsageError

FORMATS = ("safetensors", "onnx", "web")
KNOWN_BY = {"onnx": "model.onnx", "web": "model.json"}  # the file that an earlier export of the format has


def export(
    model: ModelArgument = None,
    format: Annotated[
        str,
        Option(
            help="safetensors: model folder in half precision; onnx: from token ids to pixels; "
            "web: a folder that draws in the browser."
        ),
    ] = "safetensors",
    out: Annotated[
        Path | None, Option("--out", "-o", help="Output folder (default: t2i-export/FORMAT).", show_default=False)
    ] = None,
    half: Annotated[bool, Option("--half", help="onnx: weights in 16 bits, half the size.")] = False,
    runtime: Annotated[
        Path | None,
        Option(help="web: npm package onnxruntime-web, .tgz or folder (default: fetched once).", show_default=False),
    ] = None,
    text_encoder: TextEncoderFolder = None,
    json: Json = False,
) -> None:
    """Write a trained model as half-precision safetensors, as ONNX with its tokenizer, or as a page that draws."""
    if format not in FORMATS:
        raise UsageError(f"--format is safetensors, onnx or web, not {format!r}")
    if half and format != "onnx":
        raise UsageError(f"--half is for --format onnx: {format} is in 16 bits anyway")
    if runtime and format != "web":
        raise UsageError("--runtime is for --format web")
    folder = out or Path("t2i-export") / format

    from t2i.files import check_writable
    from t2i.models.find import find_model, is_run
    from t2i.models.folder import holds_model
    from t2i.training.run import default_model

    earlier = (folder / KNOWN_BY[format]).is_file() if format in KNOWN_BY else holds_model(folder)
    if any(path.is_file() for path in folder.rglob("*")) and not earlier:
        raise UsageError(f"{folder}: not empty, and no earlier export of that format; choose another --out")
    if folder.resolve() == find_model(model or default_model()).resolve():
        raise UsageError(f"{folder} is the model itself; choose another --out")
    above = folder.resolve().parents
    if is_run(above[0]) or any(path.name == "checkpoints" and is_run(path.parent) for path in above):
        raise UsageError(f"{folder} belongs to a run; choose another --out")
    if format != "safetensors":
        from t2i.export import FILES, export_onnx, require_onnx
        from t2i.web.export import export_web, require_tokenizer
        from t2i.web.runtime import read_runtime

        require_onnx()
    pipe = console.load_pipeline(
        model, "cpu", json, choose="name another to export that one", text_encoder=text_encoder
    )
    if format == "web":
        require_tokenizer(pipe.text_encoder)
        runtime_files = read_runtime(runtime, (lambda line: None) if json else console.say)
    check_writable(folder)
    if format == "onnx":
        export_onnx(pipe, folder, half)
        files = list(FILES)
    elif format == "web":
        files = export_web(pipe, folder, runtime_files)
    else:
        import torch

        pipe.save_pretrained(folder, torch.float16)
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    sizes = {name: (folder / name).stat().st_size for name in files}
    if json:
        console.print_json({"path": str(folder), "format": format, "bytes": sizes})
    else:
        console.say(f"wrote {folder}: " + ", ".join(f"{name} ({size / 1e6:,.1f} MB)" for name, size in sizes.items()))
