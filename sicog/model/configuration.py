"""The model's configuration: a CLIP vision tower, a projector and any causal language model."""

# No `from __future__ import annotations` here: `strict` checks a field against its type, not against a string.
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, CLIPVisionConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from sicog.model.registration import AUTO_MAP
from sicog.model.square import plan_square

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_HEAD_WIDTH = 128


@strict
class SicogConfig(PreTrainedConfig):
    """Configuration of `SicogForConditionalGeneration`.

    vision_config, text_config: configs (or dicts) of the CLIP vision tower and of the causal language model.
    scale, max_slices: an image is cut into at most `max_slices` slices of about `scale`^2 pixels.
    image_mode: "slices", or "square": every image is one view of scale x scale pixels, padded. None: square for an mlp.
    projector_type: "resampler", or "mlp": two layers on each patch of a square view.
    query_grid: every view becomes query_grid^2 features; of an mlp, whose features are the patches, scale / patch size.
    vision_select_layer: which hidden state of the tower is used, as an index into its list of hidden states.
    image_token_id: the placeholder. None: the first id above the embedding table, which no text can produce.
    row_separator_id, slice_separator_id: the language model's newline and comma (13 and 29892 in imported weights).
    regions_dtype: "bfloat16" rounds the resampler's region borders like the original; imported weights may need it.
    image_mean, image_std: by channel, what uint8 patches are normalised with; the image processor's.
    resampler_heads: None: hidden size / 128, lowered until it divides the hidden size.
    loss_head: implementation of the loss, see `loss_head.causal_loss`; the result is the same.
    """

    model_type = "sicog"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "vision_config": CLIPVisionConfig,
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
    }

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    scale: int = 336
    max_slices: int = 7
    query_grid: int = 12
    vision_select_layer: int = -2
    image_token_id: int | None = None
    row_separator_id: int = 198
    slice_separator_id: int = 11
    regions_dtype: Literal["float32", "bfloat16"] = "float32"
    image_mean: list[float] | tuple[float, ...] = CLIP_MEAN
    image_std: list[float] | tuple[float, ...] = CLIP_STD
    projector_type: Literal["resampler", "mlp"] = "resampler"
    image_mode: Literal["slices", "square"] | None = None
    resampler_heads: int | None = None
    loss_head: Literal["auto", "chunked", "liger", "plain"] = "auto"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)
        self.image_mean, self.image_std = list(self.image_mean), list(self.image_std)
        for name in ("scale", "max_slices", "query_grid", "resampler_heads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name} must have a value for each of 3 channels, got {getattr(self, name)}")
        text: Any = self.text_config
        if self.image_token_id is None:
            self.image_token_id = text.vocab_size
        self._settle_views()
        if self.resampler_heads is None:
            self.resampler_heads = default_heads(text.hidden_size)
        # The language model ties its own head. Transformers reads this copy for the whole model.
        self.tie_word_embeddings = bool(getattr(text, "tie_word_embeddings", False))
        for name, token_id in (("row", self.row_separator_id), ("slice", self.slice_separator_id)):
            if not 0 <= token_id < text.vocab_size:
                raise ValueError(
                    f"{name}_separator_id {token_id} is outside the vocabulary of {text.vocab_size}; "
                    f"set it to the tokenizer's {'newline' if name == 'row' else 'comma'}"
                )
        if text.hidden_size % self.resampler_heads:
            raise ValueError(
                f"resampler_heads {self.resampler_heads} does not divide the language model's width {text.hidden_size}"
            )
        if text.hidden_size % 4:
            raise ValueError(f"the language model's width {text.hidden_size} must be a multiple of 4")

    def _settle_views(self) -> None:
        """Set the values that the kind of projector decides, and refuse values that contradict it."""
        if self.image_mode is None:
            self.image_mode = "square" if self.projector_type == "mlp" else "slices"
        if self.image_mode == "square":
            plan_square(self.scale, self.patch_size)
        if self.projector_type == "mlp":
            side = self.scale // self.patch_size
            if self.image_mode != "square":
                raise ValueError(f"projector_type mlp needs image_mode square, got {self.image_mode}")
            if self.query_grid not in (type(self).query_grid, side):
                raise ValueError(f"projector_type mlp makes {side} x {side} features of a view. Remove query_grid")
            self.query_grid = side

    def to_dict(self) -> dict[str, Any]:
        """The config as a dict, without source folders, so that the same weights give the same checkpoint."""
        values: dict[str, Any] = super().to_dict()
        for part in ("vision_config", "text_config"):
            values[part].pop("_name_or_path", None)
        return values

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to do: a saved folder refers to the class in this package and holds no copy of its code."""

    @property
    def patch_size(self) -> int:
        """Side of one patch of the vision tower, in pixels."""
        return int(self.vision_config.patch_size)  # type: ignore[union-attr]


@contextmanager
def config_errors(where: str) -> Iterator[None]:
    """Turn errors about a config's values into a `ValueError` that starts with `where`."""
    try:
        yield
    except (StrictDataclassError, ValueError) as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from None


def default_heads(width: int) -> int:
    """The number of resampler heads for a width: width / 128, lowered to the nearest divisor of the width."""
    return next(n for n in range(max(width // _HEAD_WIDTH, 1), 0, -1) if width % n == 0)


AutoConfig.register("sicog", SicogConfig, exist_ok=True)
