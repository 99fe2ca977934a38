"""A bundle as a plain folder that transformers and ONNX Runtime load without this project.

config.json, model.safetensors   a transformers model: both backbones, adapters folded in, and the heads
modeling_notellm2.py, *.py       its code: this project's own modules, cut loose from the package
tokenizer*, preprocessor_config  as the backbones came
onnx/model.onnx (and .data)      text and vision encoder in one graph, if asked for
README.md                        how to load it
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from notellm2 import errors
from notellm2.errors import InputError
from notellm2.model.backbones import multimodal, vision_output
from notellm2.model.backbones.adapters import merge_adapters
from notellm2.model.backbones.load import quiet
from notellm2.model.bundle import exported_model
from notellm2.model.bundle.bundle import CANARY_TOLERANCE, NARROW_TOLERANCE, Bundle, BundleError, load_canaries
from notellm2.model.bundle.exported_model import NoteLLM2Config, NoteLLM2Model
from notellm2.model.network import connector, fusion, notellm2, prompt, reading, shortcuts
from notellm2.notes.images import decode_image
from notellm2.notes.schema import Note

__all__ = ["BundleError", "export_bundle", "standalone"]

CODE = "modeling_notellm2"
ONNX = Path("onnx") / "model.onnx"
ONNX_TOLERANCE = 1e-3
"""Largest difference of a coordinate between ONNX Runtime and torch that an export may show."""

_SOURCES: dict[str, Any] = {
    "connector": connector,
    "errors": errors,
    "fusion": fusion,
    CODE: exported_model,
    "multimodal": multimodal,
    "notellm2": notellm2,
    "prompt": prompt,
    "reading": reading,
    "shortcuts": shortcuts,
    "vision_output": vision_output,
}
_LEFT_OUT = ("architectures", "transformers_version", "dtype", "torch_dtype")


def export_bundle(
    bundle: Path, folder: Path, *, onnx: bool = False, progress: Callable[[str], None] = lambda what: None
) -> None:
    """Write a bundle as a plain folder and prove it: what was written embeds the canary notes as the bundle does.

    Args:
        bundle: folder of a model bundle.
        folder: made; must not exist.
        onnx: also write an ONNX file.
        progress: called with what is done next.

    Raises:
        InputError: there is no bundle, the folder exists, or a library for ONNX is missing.
        BundleError: the written model does not embed as the bundle does.
    """
    if folder.exists():
        raise InputError(f"{folder}: exists already; name a folder to be made")
    if not (bundle / "config.json").is_file():
        raise InputError(f"{bundle}: not a model bundle; expected the folder bundle/ of a training artifact")
    if onnx:
        _require_onnx()
    progress(f"loading {bundle}")
    loaded = Bundle.load(bundle, device="cpu")
    if loaded.config.model.base_weights == "nf4":
        raise InputError(f"{bundle}: its LLM is held in 4 bits, which no plain folder keeps; train with bf16 to export")
    if onnx and loaded.config.model.shortcuts.runs:
        raise InputError(
            f"{bundle}: ONNX has no search in a sorted vocabulary (model.shortcuts.runs); leave --onnx out"
        )
    if loaded.config.model.connector.kind == "none":
        raise InputError(f"{bundle}: built on a multimodal LLM, which is not exported")
    canaries, expected = load_canaries(bundle)
    notes = [_mapping(note, loaded) for note in canaries]
    tolerance = CANARY_TOLERANCE if loaded.config.model.base_weights == "fp32" else NARROW_TOLERANCE
    beside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        progress("writing the model")
        _write(loaded, beside)
        del loaded  # a large model need not be in memory twice
        with quiet():
            model = NoteLLM2Model.from_pretrained(beside)
        _compare("the exported model", model.embed(notes), expected, tolerance)
        if onnx:
            progress("writing the ONNX file (minutes for a large model)")
            _write_onnx(model, notes, beside / ONNX)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def standalone(source: str) -> str:
    """Rewrite a module of this project as a file that imports its neighbours relatively, and nothing else of it.

    Imports for type checking go: annotations are never evaluated. Comments and layout stay.

    Raises:
        ValueError: it needs a part of the project that is not exported.
    """
    lines = source.splitlines(keepends=True)
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            del lines[node.lineno - 1 : node.end_lineno]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("notellm2"):
            name = str(node.module).rpartition(".")[2]
            if name not in _SOURCES:
                raise ValueError(f"{node.module} is imported by an exported module, and is not exported itself")
            lines[node.lineno - 1] = lines[node.lineno - 1].replace(str(node.module), f".{name}", 1)
    return "".join(lines)


def _write(bundle: Bundle, folder: Path) -> None:
    net = bundle.network
    llm: Any = None if net.llm is None else merge_adapters(net.llm.float())
    encoder: Any = None if bundle.vision is None else bundle.vision.model
    model = bundle.config.model
    derived = ("reads_text", "reads_images", "image_shortcut")
    settings = model.model_dump(mode="json") | {name: getattr(model, name) for name in derived}
    settings["shortcuts"]["on"] = model.shortcuts.on
    config = NoteLLM2Config(
        model=settings,
        prompt={
            "head": net.layout.head.tolist(),
            "tail": net.layout.tail.tolist(),
            "visual_position": net.layout.visual_position,
        },
        llm=None if llm is None else _plain_config(llm.config),
        vision=None if encoder is None else _plain_config(encoder.config),
        vision_width=0 if bundle.vision is None else bundle.vision.width,
        auto_map={"AutoConfig": f"{CODE}.NoteLLM2Config", "AutoModel": f"{CODE}.NoteLLM2Model"},
    )
    with torch.device("meta"):  # its modules are replaced at once
        plain = NoteLLM2Model(config)
    net.llm = llm
    plain.network, plain.vision = net, encoder
    with quiet():
        plain.save_pretrained(folder)
    for name, module in _SOURCES.items():
        (folder / f"{name}.py").write_text(standalone(Path(module.__file__).read_text()))
    bundle.tokenizer.save_pretrained(folder)
    if bundle.vision is not None:
        bundle.vision.processor.save_pretrained(folder)
    (folder / "README.md").write_text(_README.format(folder=folder.name.removeprefix(".").removesuffix(".tmp")))


def _plain_config(config: Any) -> dict[str, Any]:
    """Copy a backbone's configuration for `AutoConfig.for_model`; its weights are float32 by now."""
    return {name: value for name, value in config.to_dict().items() if name not in _LEFT_OUT}


def _write_onnx(model: NoteLLM2Model, notes: list[dict[str, Any]], path: Path) -> None:
    import onnxruntime

    path.parent.mkdir()
    model.requires_grad_(False)
    inputs = {name: tensor for name, tensor in model.inputs(notes).items() if tensor is not None}
    size, length = torch.export.Dim("notes"), torch.export.Dim("tokens")
    shapes = {"tokens": {0: size, 1: length}, "last": {0: size}, "pixel_values": {0: size}, "has_image": {0: size}}
    missing = {name: None for name in shapes if name not in inputs}
    program = torch.onnx.export(
        model,
        kwargs=inputs | missing,
        dynamo=True,
        dynamic_shapes=shapes | missing,
        input_names=list(inputs),
        output_names=["vectors"],
        verbose=False,
    )
    if program is None:
        raise BundleError("torch made no ONNX program of this model")
    program.save(str(path), external_data=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    # Another number of notes and another length than the graph was traced with.
    for rows in (notes, notes[:1]):
        feeds = {name: tensor.numpy() for name, tensor in model.inputs(rows).items() if tensor is not None}
        _compare("the ONNX file", session.run(None, feeds)[0], model.embed(rows), ONNX_TOLERANCE)


def _compare(what: str, embedded: Any, expected: Any, tolerance: float) -> None:
    worst = float(np.abs(embedded - expected).max()) if embedded.shape == expected.shape else float("inf")
    if not worst <= tolerance:
        raise BundleError(f"{what} embeds otherwise than the bundle (largest difference {worst:.2g})")


def _mapping(note: Note, bundle: Bundle) -> dict[str, Any]:
    image = None if note.image is None else decode_image(note.image, bundle.config.images)
    return {"title": note.title, "topics": list(note.topics), "content": note.content, "image": image}


def _require_onnx() -> None:
    import importlib.util

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"--onnx needs {', '.join(missing)}; install notellm2[onnx]")


_README = """\
# An exported NoteLLM-2

    from transformers import AutoModel

    model = AutoModel.from_pretrained("{folder}", trust_remote_code=True)
    notes = [{{"title": "a walk", "topics": ["hills"], "content": "all day", "image": "photo.jpg"}}]
    vectors = model.embed(notes)  # float32[notes, width], of length 1: a dot product is a cosine

`trust_remote_code` runs the Python files of this folder; read them first. The weights are safetensors.

`onnx/model.onnx`, where it was asked for, reads what `model.inputs(notes)` gives, by the same names, and gives
`vectors`:

    session = onnxruntime.InferenceSession("{folder}/onnx/model.onnx")
    vectors = session.run(None, {{name: x.numpy() for name, x in model.inputs(notes).items() if x is not None}})[0]
"""
