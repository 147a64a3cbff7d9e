"""`t2i export --format web`: one static folder that draws in the browser.

OUT/index.html, style.css, page.js      the page; its worker draws
OUT/worker.js, tokenizer.js, noise.js   ids and noise as t2i makes them, and the model that takes them
OUT/model.onnx, tokenizer.json          as of `--format onnx --half`
OUT/model.json                          what the page says of the model, and the width of its noise
OUT/onnxruntime/                        onnxruntime-web, and its licence
OUT/README.md                           how to serve it
"""

import contextlib
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from t2i.errors import UserError
from t2i.export import onnx_model, require_onnx, tokenizer_json
from t2i.files import atomic_write, describe_os_error, make_folder, sweep
from t2i.pipeline import TextToImagePipeline
from t2i.text.transformer import TrainedEncoder
from t2i.version import __version__
from t2i.web import runtime

START = "index.html"  # written last and removed first: a page that is there is whole
PAGE = ("style.css", "page.js", "worker.js", "tokenizer.js", "noise.js", f"{runtime.FOLDER}/LICENSE", START)
BERT_NORMALISER = {
    "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
    "lowercase": True,
}  # fmt: skip


def export_web(pipe: TextToImagePipeline, folder: Path | str, runtime_files: dict[str, bytes]) -> list[str]:
    """Write the page, the model and what runs it into `folder`; each file is replaced whole. Their names.

    runtime_files: of runtime.read_runtime. Raises UserError, one line, as export_onnx does, and for a text encoder
    with a tokenizer that the page does not have.
    """
    require_onnx()
    require_tokenizer(pipe.text_encoder)
    folder = make_folder(folder)
    model = onnx_model(pipe, half=True)
    about = pipe.description
    width, height = about.form.size(pipe.resolution)
    facts = {
        "architecture": about.architecture, "width": width, "height": height, "z_dim": pipe.generator.z_dim,
        "data": about.training.get("data", "unknown data"), "licences": about.training.get("licences", ""),
        "prompts": pipe.known_prompts[:8], "bytes": len(model), "sha256": hashlib.sha256(model).hexdigest(),
        "t2i_version": __version__,
    }  # fmt: skip
    contents = {
        "model.json": json.dumps(facts, indent=2, ensure_ascii=False).encode("utf-8", "replace"),
        "model.onnx": model,
        "tokenizer.json": tokenizer_json(pipe.text_encoder).encode(),
        "README.md": readme(facts).encode("utf-8", "replace"),
        **{f"{runtime.FOLDER}/{name}": content for name, content in runtime_files.items()},
        **{name: files("t2i.web").joinpath("page", name).read_bytes() for name in PAGE},
    }
    try:
        with contextlib.suppress(FileNotFoundError):
            (folder / START).unlink()
    except OSError as error:
        raise describe_os_error(error, folder / START) from error
    make_folder(folder / runtime.FOLDER)
    for name, content in contents.items():
        path = folder / name
        sweep(path.parent, f".{path.name}.*.tmp")  # of an export that was killed
        with atomic_write(path) as stream:
            stream.write(content)
    return list(contents)


def require_tokenizer(encoder: Any) -> None:
    """Raises UserError, one line, where page/tokenizer.js does not split captions as this encoder's tokenizer does."""
    if isinstance(encoder, TrainedEncoder):
        return
    described = json.loads(tokenizer_json(encoder))
    model = described["model"]
    vocabulary = model.get("vocab", {})
    agrees = (
        model["type"] == "WordPiece"
        and model["continuing_subword_prefix"] == "##"
        and described["normalizer"] == BERT_NORMALISER
        and described["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and not any(token[key] for token in described["added_tokens"] for key in ("normalized", "lstrip", "rstrip"))
        and encoder.token_ids(["[SEP]"]) == [[vocabulary.get("[CLS]"), *[vocabulary.get("[SEP]")] * 2]]
    )
    if not agrees:
        raise UserError(
            f"the text encoder {encoder.name!r} has a tokenizer that the page in the browser does not have: it has "
            "those of minilm (BERT's, without case) and of --text-encoder transformer; --format onnx takes any"
        )


def readme(facts: dict[str, Any]) -> str:
    """README.md: how to serve the folder, and under which licences its parts are."""
    terms = f"- Training images: {facts['licences'].rstrip('.')}.\n" if facts["licences"] else ""
    return f"""# A text-to-image model that draws in the browser

{facts["architecture"]}, {facts["width"]} x {facts["height"]} px, trained on {facts["data"]}; exported by
t2i {__version__}. Any web server of static files serves this folder; here, for example,

```
python -m http.server
```

and then http://localhost:8000. The server needs no special headers. Nothing that is typed leaves the browser.

- The page: t2i, Apache-2.0.
- onnxruntime/: ONNX Runtime Web {runtime.VERSION}, Microsoft, MIT.
{terms}"""
