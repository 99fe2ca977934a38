"""A NoteLLM-2 as a plain transformers model: what ``notellm2 export`` puts into a folder, beside its weights.

    from transformers import AutoModel
    model = AutoModel.from_pretrained("the-folder", trust_remote_code=True)
    vectors = model.embed([{"title": "...", "topics": ["..."], "content": "...", "image": a_pillow_image}])

It needs torch, transformers (5 or newer), numpy and Pillow, and no part of the project that made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from notellm2.model.backbones.vision_output import has_class_token, register_tokens, summary_and_patches
from notellm2.model.network.notellm2 import NoteBatch, NoteLLM2, assemble
from notellm2.model.network.prompt import Layout, encode_texts


class NoteLLM2Config(PreTrainedConfig):
    """Configuration of an exported model.

    Attributes:
        model: the recipe's section `model`: prompt, text limits, parts.
        prompt: its fixed tokens: head, tail, visual_position (`Layout`).
        llm, vision: configurations of the two backbones, with their ``model_type``; None where one is not used.
        vision_width: V; 0 without encoder.
    """

    model_type = "notellm2"

    def __init__(
        self,
        model: Mapping[str, Any] | None = None,
        prompt: Mapping[str, Any] | None = None,
        llm: Mapping[str, Any] | None = None,
        vision: Mapping[str, Any] | None = None,
        vision_width: int = 0,
        **rest: Any,
    ) -> None:
        self.model = dict(model or {})
        self.prompt = {"head": [], "tail": [0], "visual_position": None, **(prompt or {})}
        self.llm = None if llm is None else dict(llm)
        self.vision = None if vision is None else dict(vision)
        self.vision_width = vision_width
        super().__init__(**rest)


class NoteLLM2Model(PreTrainedModel):
    """The network and the vision encoder as one model."""

    config_class = NoteLLM2Config

    def __init__(self, config: NoteLLM2Config) -> None:
        super().__init__(config)
        self._settings: Any = _namespace(config.model)
        fixed = config.prompt
        layout = Layout(np.array(fixed["head"], np.int32), np.array(fixed["tail"], np.int32), fixed["visual_position"])
        self.network = NoteLLM2(_backbone(config.llm), layout, self._settings, config.vision_width)
        self.vision = _backbone(config.vision)
        self._class_token = self.vision is not None and has_class_token(self.vision)
        self._registers = 0 if self.vision is None else register_tokens(self.vision.config)
        self.post_init()  # type: ignore[no-untyped-call]

    @cached_property
    def _tokenizer(self) -> Any:
        return PreTrainedTokenizerFast.from_pretrained(str(self.name_or_path))

    @cached_property
    def _processor(self) -> Any:
        return AutoImageProcessor.from_pretrained(str(self.name_or_path))

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: every weight comes from the file."""

    def forward(self, tokens: Tensor, last: Tensor, pixel_values: Tensor | None, has_image: Tensor | None) -> Tensor:
        """Embed notes that are assembled already.

        Args:
            tokens: int64[B, L], prompt and text, right-padded; -1 a visual token, -2 <IMG_EMB>.
            last: int64[B], position of each note's last token.
            pixel_values: float32[B, 3, S, S], preprocessed; anything for notes without image. None: no encoder.
            has_image: float32[B], 1 or 0.

        Returns:
            float32[B, D], of length 1.
        """
        features = None
        if self.vision is not None:
            if pixel_values is None or has_image is None:
                raise ValueError("this model reads images: pixel_values and has_image are needed")
            encoded = summary_and_patches(self.vision(pixel_values=pixel_values), self._class_token, self._registers)
            # Half precision, as the features that it was trained on are stored.
            features = encoded.half().float() * has_image[:, None, None]
        vectors: Tensor = self.network(NoteBatch(tokens, last, features)).multimodal_BD
        return vectors

    @torch.inference_mode()
    def embed(self, notes: Sequence[Mapping[str, Any]], batch: int = 16) -> NDArray[np.float32]:
        """Embed notes: float32[len(notes), D], of length 1.

        Args:
            notes: mappings with any of title, topics (a list), content, image (a Pillow image or a path).
            batch: notes a forward pass.
        """
        rows = [self(**self.inputs(notes[i : i + batch])).cpu().numpy() for i in range(0, len(notes), batch)]
        return np.concatenate([np.zeros((0, self.network.head.out_features), np.float32), *rows])

    def inputs(self, notes: Sequence[Mapping[str, Any]]) -> dict[str, Tensor | None]:
        """Return the arguments of `forward` for some notes; also what the ONNX file reads, by the same names."""
        fields = ("title", ""), ("topics", ()), ("content", "")
        plain: Any = [SimpleNamespace(**{name: note.get(name) or empty for name, empty in fields}) for note in notes]
        texts = encode_texts(self._tokenizer, plain, self._settings)
        batch = assemble(self.network.layout, [texts.text(i) for i in range(len(plain))], None)
        device = self.network.head.weight.device
        inputs: dict[str, Tensor | None] = {"tokens": batch.tokens_BL.to(device), "last": batch.last_B.to(device)}
        pixels, present = None, None
        if self.vision is not None:
            pictures = [_picture(note.get("image")) for note in notes]
            shown = [picture or _grey() for picture in pictures]
            pixels = self._processor(shown, return_tensors="pt")["pixel_values"].to(device)
            present = torch.tensor([float(picture is not None) for picture in pictures], device=device)
        return inputs | {"pixel_values": pixels, "has_image": present}


def _backbone(config: Mapping[str, Any] | None) -> Any:
    if config is None:
        return None
    settings = dict(config)
    return AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))


def _namespace(value: Any) -> Any:
    if isinstance(value, Mapping):
        return SimpleNamespace(**{name: _namespace(inner) for name, inner in value.items()})
    return value


def _picture(image: Any) -> Any:
    """RGB, upright by its EXIF orientation, transparency laid on white: as the images it was trained on."""
    from PIL import Image, ImageOps

    if image is None:
        return None
    picture = ImageOps.exif_transpose(image if isinstance(image, Image.Image) else Image.open(image))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _grey() -> Any:
    from PIL import Image

    return Image.new("RGB", (64, 64), (128, 128, 128))
