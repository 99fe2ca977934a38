"""The model bundle: one directory, no pickles, that embeds notes anywhere.

    config.json        format, model section of the recipe, image limits, backbones by name and digest, note counts
    heads.safetensors  connector, late fusion, head, <IMG_EMB>, logit scale
    adapter/           LoRA adapter (peft), when the LLM was tuned by LoRA
    llm/               all LLM weights, when the LLM was tuned whole
    base/llm, base/vision   backbones that came from local folders; hub names are referenced, not copied
    tokenizer/         the LLM's tokenizer
    files.json         sha256 of everything above but base/, whose digest config.json carries
    canary.json        a few notes with their embeddings, checked at every load

A file that changed since it was saved is refused by its digest. A bundle that loads into something else than what was
saved (another library version, a swapped backbone) shows in its canary and refuses to load.
"""

from __future__ import annotations

import base64
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from notellm2.artifacts import digest_file
from notellm2.errors import InputError
from notellm2.model.backbones.adapters import merge_adapters
from notellm2.model.backbones.encode_images import encode_images
from notellm2.model.backbones.load import (
    LanguageModel,
    VisionEncoder,
    backbone_digest,
    load_language_model,
    load_tokenizer,
    load_vision_encoder,
)
from notellm2.model.network.note_source import Modality, NoteSource, embed_rows
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.model.network.prefix import check_width, prefixes
from notellm2.model.network.prompt import encode_texts, layout
from notellm2.notes.schema import Note
from notellm2.recipe import ImageLimits, ModelConfig, as_recorded

logger = logging.getLogger(__name__)

FORMAT = 1
CANARY_TOLERANCE = 1e-3
"""Largest difference of a coordinate of a unit vector: float noise between machines is below 1e-4."""
NARROW_TOLERANCE = 2e-2
"""The same where the LLM is held in fewer than 32 bits: machines round differently. A margin, not a measured bound."""
CANARIES = 4
_FILES = "files.json"
_FOLDER = "folder:"
"""Begins the name of a backbone from a local folder; its digest follows, not its place: one model, the same bytes."""


class BundleError(RuntimeError):
    """A bundle is damaged, or does not reproduce its canary embeddings."""


class BundleConfig(BaseModel):
    """Describe a bundle: the file ``config.json``."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    model: ModelConfig
    images: ImageLimits
    llm: str
    llm_digest: str
    vision: str
    vision_digest: str
    revision: str | None
    registers: int = 0
    """Tokens of the vision encoder that are left out (`notellm2.model.backbones.backbones_stage.Backbones`)."""

    _older = model_validator(mode="before")(as_recorded)


class Bundle:
    """A trained model, ready to embed notes.

    Attributes:
        config: what it is.
        network: in evaluation mode, adapters merged.
        tokenizer: the LLM's.
        vision: the frozen encoder; None for a variant that reads no image.
    """

    def __init__(self, config: BundleConfig, network: NoteLLM2, tokenizer: Any, vision: VisionEncoder | None) -> None:
        self.config = config
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.vision = vision
        self.undecodable = 0

    @property
    def dim(self) -> int:
        """D, width of the embeddings."""
        return self.network.head.out_features

    @classmethod
    def load(cls, folder: Path, *, check: bool = True, device: torch.device | str | None = None) -> Bundle:
        """Load a bundle and check its canary.

        Args:
            folder: of the bundle.
            check: whether the canary is embedded and compared.
            device: of network and vision encoder; None: the GPU if there is one. (A 4-bit LLM stays where it is.)

        Raises:
            InputError: the folder is no bundle.
            BundleError: a file is damaged or missing, or the canary embeddings are not reproduced.
        """
        try:
            config = BundleConfig.model_validate_json((folder / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: not a model bundle ({error})") from error
        if config.format != FORMAT:
            raise InputError(f"{folder}: bundle format {config.format}, this version reads {FORMAT}")
        _check_files(folder)
        language = _load_llm(folder, config)
        vision = None
        if config.model.reads_images:
            # A multimodal LLM is both backbones, and is kept once.
            both = config.vision_digest == config.llm_digest and not (folder / "base" / "vision").is_dir()
            encoder = _base(folder, "llm" if both else "vision", config.vision, config.vision_digest)
            vision = load_vision_encoder(encoder, config.revision)
        network = NoteLLM2(
            language.model, layout(language.tokenizer, config.model), config.model, vision.width if vision else 0
        )
        _load_heads(network, folder / "heads.safetensors")
        placed = torch.device("cpu") if language.model is None else next(language.model.parameters()).device
        if placed.type != "cpu":
            device = placed
        elif device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        network.to(device)
        if vision is not None:
            vision.model.to(device)
        bundle = cls(config, network, language.tokenizer, vision)
        if check:
            bundle.check_canary(folder)
            bundle.undecodable = 0
        return bundle

    def embed(
        self, notes: Sequence[Note], *, batch: int = 64, modality: Modality = "both", width: int | None = None
    ) -> NDArray[np.float32]:
        """Embed notes, float32[n, D], L2-normalised.

        A note whose image does not decode is embedded without it, counted in `undecodable` and logged.

        Args:
            notes: any number.
            batch: notes a forward pass.
            modality: what is withheld.
            width: of the embeddings, one that the model was trained for (``model.matryoshka``); None: D.

        Returns:
            float32[len(notes), width], L2-normalised.

        Raises:
            InputError: the model does not serve that width.
        """
        width = self.dim if width is None else width
        check_width(width, self.dim, self.config.model.matryoshka)
        if not notes:
            return np.zeros((0, width), np.float32)
        texts = encode_texts(self.tokenizer, notes, self.config.model)
        features = self.vision_features(notes) if self.vision is not None else None
        source = NoteSource(self.network.layout, texts, features)
        embedded = embed_rows(self.network, source, np.arange(len(notes)), size=batch, modality=modality)
        return embedded if width == self.dim else prefixes(embedded, width)

    def vision_features(self, notes: Sequence[Note]) -> NDArray[np.float16]:
        """Compute frozen features of the notes' images, float16[n, P, V]; zeros where there is none that decodes."""
        if self.vision is None:
            raise ValueError("this variant reads no image: it has no vision encoder")
        features, failed = encode_images(self.vision, notes, self.config.images)
        for note_id, reason in failed:
            logger.warning("note %s: its image does not decode (%s); embedded without it", note_id, reason)
        self.undecodable += len(failed)
        return features

    def check_canary(self, folder: Path) -> None:
        """Embed the canary notes and compare.

        Raises:
            BundleError: a coordinate differs by more than `CANARY_TOLERANCE`, or the file is unreadable.
        """
        notes, expected = load_canaries(folder)
        embedded = self.embed(notes)
        worst = float(np.abs(embedded - expected).max()) if embedded.shape == expected.shape else float("inf")
        allowed = _tolerance(self.config.model)
        if not worst <= allowed:
            raise BundleError(
                f"{folder}: the loaded model gives other embeddings than the saved one (largest difference "
                f"{worst:.2g}, allowed {allowed:g}); the backbone or a library differs from the training's"
            )


def load_canaries(folder: Path) -> tuple[list[Note], NDArray[np.float32]]:
    """Load the notes that a bundle is checked with, and their embeddings float32[n, D].

    Raises:
        BundleError: the file is unreadable.
    """
    try:
        canaries = json.loads((folder / "canary.json").read_text())
        notes = [_canary_note(canary) for canary in canaries]
        return notes, np.array([canary["embedding"] for canary in canaries], np.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / 'canary.json'}: unreadable ({error}); register the model again") from error


def save_bundle(
    folder: Path,
    network: NoteLLM2,
    language: LanguageModel,
    config: BundleConfig,
    canaries: Sequence[Note],
) -> None:
    """Write a bundle and prove it: it is loaded back, and the loaded one embeds the canaries.

    Args:
        folder: made; must not exist.
        network: trained, adapters not merged.
        language: its tokenizer is saved.
        config: names, digests and sections; the name of a local folder that the bundle holds becomes its digest.
        canaries: a few notes, with and without image and text.

    Raises:
        BundleError: the loaded bundle does not embed as the trained network does.
    """
    from peft import PeftModel

    folder.mkdir(parents=True)
    names = {"llm": _lasting(config.llm, config.llm_digest)}
    if config.model.reads_images:  # else the bundle does not hold the encoder, which comparisons still look for
        names["vision"] = _lasting(config.vision, config.vision_digest)
    (folder / "config.json").write_text(config.model_copy(update=names).model_dump_json(indent=2) + "\n")
    heads = {n: p.detach().cpu().contiguous() for n, p in network.named_parameters() if not n.startswith("llm.")}
    save_file(heads, folder / "heads.safetensors")
    llm: Any = network.llm
    if isinstance(llm, PeftModel):
        llm.save_pretrained(str(folder / "adapter"))
        _strip_place(folder / "adapter", names["llm"])
    elif llm is not None and config.model.tuning == "full":
        llm.save_pretrained(folder / "llm")
    language.tokenizer.save_pretrained(folder / "tokenizer")
    if config.model.reads_text and config.model.tuning != "full" and Path(config.llm).is_dir():
        shutil.copytree(config.llm, folder / "base" / "llm", copy_function=shutil.copyfile)
    both = config.vision_digest == config.llm_digest and (folder / "base" / "llm").is_dir()
    if config.model.reads_images and Path(config.vision).is_dir() and not both:
        shutil.copytree(config.vision, folder / "base" / "vision", copy_function=shutil.copyfile)
    digests = {name: digest_file(folder / name) for name in _own_files(folder)}
    (folder / _FILES).write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n")
    loaded = Bundle.load(folder, check=False, device="cpu")
    embedded = loaded.embed(canaries)
    trained = Bundle(config, network, language.tokenizer, loaded.vision).embed(canaries)
    worst = float(np.abs(embedded - trained).max())
    if not worst <= _tolerance(config.model):
        raise BundleError(f"{folder}: the saved bundle does not load back as trained (largest difference {worst:.2g})")
    rows = [_canary_row(note, vector) for note, vector in zip(canaries, embedded, strict=True)]
    (folder / "canary.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def _lasting(name: str, digest: str) -> str:
    """A backbone's name wherever it lies: a hub name as it is, of a folder what it holds."""
    return f"{_FOLDER}{digest[:16]}" if Path(name).is_dir() else name


def _strip_place(adapter: Path, llm: str) -> None:
    """Take out of what peft wrote where the LLM lay and the order of a set: the same adapter has the same bytes."""
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["base_model_name_or_path"] = llm
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (adapter / "README.md").unlink(missing_ok=True)  # a form that nobody filled in, with the same path


def _own_files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.startswith("base/") and name not in (_FILES, "canary.json"))


def _check_files(folder: Path) -> None:
    try:
        digests = json.loads((folder / _FILES).read_text())
        changed = [name for name, digest in digests.items() if digest_file(folder / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(f"{folder}: a file is missing or unreadable ({error}); register the model again") from error
    if changed:
        raise BundleError(f"{folder}: changed since it was saved: {', '.join(changed)}; register the model again")


def _load_llm(folder: Path, config: BundleConfig) -> LanguageModel:
    if not config.model.reads_text:
        return load_tokenizer(str(folder / "tokenizer"), config.llm_digest)
    tuned_whole = config.model.tuning == "full"
    base = str(folder / "llm") if tuned_whole else _base(folder, "llm", config.llm, config.llm_digest)
    tokenizer = str(folder / "tokenizer")
    language = load_language_model(base, config.revision, weights=config.model.base_weights, tokenizer=tokenizer)
    if config.model.tuning != "lora":
        return language
    from peft import PeftModel

    model = merge_adapters(PeftModel.from_pretrained(language.module, str(folder / "adapter")))
    return LanguageModel(model, language.tokenizer, language.digest)


def _base(folder: Path, part: str, name: str, digest: str) -> str:
    """The backbone inside the bundle if it was copied, else its name; checked against the digest."""
    copied = folder / "base" / part
    if not copied.is_dir():
        if name.startswith(_FOLDER):
            raise BundleError(f"{copied}: missing; register the model again")
        return name
    if backbone_digest(str(copied)) != digest:
        raise BundleError(f"{copied}: its bytes are not those the model was trained on; register the model again")
    return str(copied)


def _load_heads(network: NoteLLM2, path: Path) -> None:
    try:
        weights = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(f"{path}: unreadable ({error})") from error
    parameters = {n: p for n, p in network.named_parameters() if not n.startswith("llm.")}
    odd = sorted(parameters.keys() ^ weights.keys())
    odd += sorted(n for n in parameters.keys() & weights.keys() if parameters[n].shape != weights[n].shape)
    if odd:
        raise BundleError(f"{path}: weights missing, unexpected or of another shape: {', '.join(odd[:8])}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _tolerance(config: ModelConfig) -> float:
    return CANARY_TOLERANCE if config.base_weights == "fp32" or not config.reads_text else NARROW_TOLERANCE


def _canary_row(note: Note, vector: NDArray[np.float32]) -> dict[str, Any]:
    return {
        "note_id": note.note_id,
        "title": note.title,
        "topics": list(note.topics),
        "content": note.content,
        "image": None if note.image is None else base64.b64encode(note.image).decode(),
        "embedding": [round(float(value), 7) for value in vector],
    }


def _canary_note(row: dict[str, Any]) -> Note:
    image = None if row["image"] is None else base64.b64decode(row["image"])
    return Note(row["note_id"], row["title"], tuple(row["topics"]), row["content"], image)
