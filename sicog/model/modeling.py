"""The model: a vision tower, a projector and a causal language model, joined by one masked write.

Shapes: B rows, T positions, E language model width, N visual features of the batch in layout order, V views,
P patches of all views, K values of a patch, Q = query_grid^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from sicog.model.card import write_card
from sicog.model.configuration import SicogConfig
from sicog.model.kernels.choice import avoid_cudnn_attention
from sicog.model.kernels.document_attention import packed_arguments
from sicog.model.kernels.loss_head import causal_loss, document_log_probs
from sicog.model.layout import feature_order
from sicog.model.mlp_projector import MlpProjector
from sicog.model.pixels import normalise_pixels
from sicog.model.registration import write_classes
from sicog.model.resampler import Resampler
from sicog.model.views import sent
from sicog.model.vision_tower import VisionTower


@dataclass
class SicogOutput(CausalLMOutputWithPast):
    """Transformers' output with two more fields.

    document_log_probs: float [D], if requested. last_hidden_state: float [B, T, E], if there are logits; TRL's trainers
    compute their losses from it.
    """

    document_log_probs: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


class SicogPreTrainedModel(PreTrainedModel):
    """Attributes that Transformers reads from the model and all its parts."""

    config_class = SicogConfig
    config: SicogConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The vision tower and the language model initialise their own weights.
        if isinstance(module, Resampler | MlpProjector):
            module.init_weights()


class SicogForConditionalGeneration(SicogPreTrainedModel, GenerationMixin):
    """Images and text in, text out. Inputs come from `SicogProcessor`."""

    def __init__(self, config: SicogConfig) -> None:
        super().__init__(config)
        avoid_cudnn_attention()
        text: Any = config.text_config
        vision: Any = config.vision_config
        self.vision_tower = VisionTower(vision, config.vision_select_layer)
        # The projector of either kind has this name in every checkpoint.
        self.resampler = make_projector(config)
        self.language_model = AutoModelForCausalLM.from_config(text)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`, then freeze unused layers again, because loading unfreezes them."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).vision_tower.freeze_unused()
        return loaded

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, *args: Any, **kwargs: Any) -> None:
        """As `PreTrainedModel.save_pretrained`, with a model card and the file that imports our classes."""
        if is_main_process:
            write_classes(save_directory)
            write_card(save_directory, self.config)
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing to do: a saved folder refers to the class in this package and holds no copy of its code."""

    @classmethod
    def from_parts(
        cls, config: SicogConfig, vision_tower: VisionTower, language_model: nn.Module
    ) -> SicogForConditionalGeneration:
        """A model of these parts; its projector has no values yet. `load_parts` reads all of them from disk."""
        with torch.device("meta"):
            model = cls(config)
        model.vision_tower, model.language_model = vision_tower, language_model
        return model

    @property
    def image_token_id(self) -> int:
        """The placeholder's id; it may lie outside the embedding table."""
        assert self.config.image_token_id is not None  # the config fills it in
        return self.config.image_token_id

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def encode_images(self, pixel_values: torch.Tensor, view_sizes: Any, image_grids: Any) -> torch.Tensor:
        """Visual features of all images, in layout order, image after image.

        pixel_values [P, K]: patches of all views (an image's slices row-major, then its thumbnail), float or uint8.
        view_sizes int [V, 2]: (rows, columns) in patches. image_grids int [images, 2]: (columns, rows) of the slices,
        (0, 0) for an unsliced image. Both are tensors or arrays; on the host, nothing waits for the GPU.
        Returns [N, E]. Raises `ValueError` when grids, views and patches do not agree.
        """
        if view_sizes is None or image_grids is None:
            raise ValueError("pixel_values need view_sizes and image_grids. Pass everything that collate returns")
        grids = tuple((int(c), int(r)) for c, r in image_grids.tolist())
        if (n := sum(c * r + 1 for c, r in grids)) != len(view_sizes):
            raise ValueError(f"image_grids describe {n} views, but view_sizes has {len(view_sizes)}")
        if pixel_values.dtype == torch.uint8:
            pixel_values = normalise_pixels(pixel_values, self.config.image_mean, self.config.image_std)
        features_PD = self.vision_tower(pixel_values, view_sizes)
        views_VQE = self.resampler(features_PD, view_sizes)
        if (found := views_VQE.shape[1]) != (wanted := self.config.query_grid**2):
            raise ValueError(f"a view gives {found} features, not {wanted}. Prepare images with this model's processor")
        return views_VQE.flatten(0, 1)[sent(_layout_order(grids, self.config.query_grid), views_VQE.device)]

    def get_image_features(
        self, pixel_values: torch.Tensor, view_sizes: torch.Tensor, image_grids: torch.Tensor
    ) -> BaseModelOutputWithPooling:
        """`encode_images` as Transformers' models offer it: `pooler_output` has the features [N, E] of each image."""
        features_NE = self.encode_images(pixel_values, view_sizes, image_grids)
        per_view = self.config.query_grid**2
        sizes = [(int(c * r) + 1) * per_view for c, r in image_grids.tolist()]
        return BaseModelOutputWithPooling(pooler_output=features_NE.split(sizes))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        view_sizes: Any = None,
        image_grids: Any = None,
        image_features: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        use_cache: bool | None = None,
        document_borders: Any = None,
        wants_log_probs: bool = False,
        image_positions: torch.Tensor | None = None,
        supervised_positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SicogOutput:
        """Loss when `labels` are given (logits are then None), else logits.

        input_ids int [B, T] with one placeholder per visual feature; pixels as in `encode_images`, or `image_features`
        [N, E] as it returns them. labels int [B, T], -100 where unsupervised, shifted here. The loss is the sum over
        supervised positions divided by `num_items_in_batch`, or their mean when that is None. With `wants_log_probs`
        there is no loss but, for each document, the summed log-probability of its supervised tokens.
        document_borders int [D + 1]: [1, T] holds D documents end to end, and each attends to itself alone; the first
        label of each must be -100, and there is neither attention_mask nor cache.
        image_positions int64 [N], supervised_positions int64 [S]: of the placeholders, and those before labels that are
        not -100, as indices into B * T. Without them they are looked for, and the host waits for the GPU.
        Raises `ValueError` when the numbers of placeholders and features differ, unless a cache holds something.
        """
        if inputs_embeds is None:
            if image_features is None and pixel_values is not None:
                image_features = self.encode_images(pixel_values, view_sizes, image_grids)
            decoding = past_key_values is not None and past_key_values.get_seq_length() > 0
            given = (input_ids, image_features, image_positions)
            inputs_embeds = self._inputs_of(*given, training=labels is not None, decoding=decoding)
        if labels is not None and use_cache is None:
            use_cache = False  # training needs none, and with one Transformers packs rows incorrectly
        arguments = {"attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
        arguments |= {"past_key_values": past_key_values, "use_cache": use_cache}
        if document_borders is not None:
            if attention_mask is not None or past_key_values is not None or use_cache:
                raise ValueError("document_borders cannot be combined with attention_mask or a cache. Remove those")
            arguments |= packed_arguments(self.language_model.config, inputs_embeds, document_borders, position_ids)
        outputs = self.language_model.base_model(inputs_embeds=inputs_embeds, **arguments)
        hidden_BTE: torch.Tensor = outputs.last_hidden_state
        if labels is None:
            heads = {"logits": self.logits(hidden_BTE, logits_to_keep), "last_hidden_state": hidden_BTE}
        else:
            places = (document_borders, supervised_positions)
            heads = self._loss_or_log_probs(hidden_BTE, labels, num_items_in_batch, *places, wants_log_probs)
        return SicogOutput(
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **heads,
        )

    def _loss_or_log_probs(
        self,
        hidden_BTE: torch.Tensor,
        labels_BT: torch.Tensor,
        n_items: torch.Tensor | int | None,
        borders: Any,
        positions_S: torch.Tensor | None,
        wants_log_probs: bool,
    ) -> dict[str, torch.Tensor]:
        """The loss of the labels, or the log-probability of each document's."""
        head, kind = self.get_output_embeddings(), self.config.loss_head
        if wants_log_probs:
            return {"document_log_probs": document_log_probs(head, hidden_BTE, labels_BT, borders, kind, positions_S)}
        return {"loss": causal_loss(head, hidden_BTE, labels_BT, n_items, kind, positions_S)}

    def _inputs_of(
        self,
        input_ids: torch.Tensor | None,
        features_NE: torch.Tensor | None,
        positions_N: torch.Tensor | None,
        *,
        training: bool,
        decoding: bool,
    ) -> torch.Tensor:
        """The inputs [B, T, E] of the language model."""
        if input_ids is None:
            raise ValueError("pass input_ids or inputs_embeds")
        # Before the embedding, as images are: DeepSpeed pairs what ranks gather and reduce by its order.
        touched = self._touch_vision(input_ids.device) if features_NE is None and training else None
        # Counting placeholders waits for the device, which every step of decoding would pay for.
        x_BTE = self._embed(input_ids, features_NE, positions_N, checked=features_NE is not None or not decoding)
        return x_BTE if touched is None else x_BTE + touched.to(x_BTE.dtype)

    def _embed(
        self,
        input_ids: torch.Tensor,
        features_NE: torch.Tensor | None,
        positions_N: torch.Tensor | None = None,
        *,
        checked: bool,
    ) -> torch.Tensor:
        """Look up the ids [B, T] and write the visual features over the placeholders, in order."""
        mask_BT = input_ids.eq(self.image_token_id)
        # The placeholder may lie outside the embedding table. The embedding looked up instead is overwritten.
        x_BTE = self.get_input_embeddings()(input_ids.masked_fill(mask_BT, 0))
        if not checked:
            return x_BTE
        n_features = 0 if features_NE is None else len(features_NE)
        expected = int(mask_BT.sum()) if positions_N is None else len(positions_N)
        if expected != n_features:
            raise ValueError(f"{expected} image placeholders but {n_features} image features")
        if features_NE is None:
            return x_BTE
        if positions_N is not None:
            written = x_BTE.flatten(0, 1).index_copy(0, positions_N, features_NE.to(x_BTE.dtype))
            return written.view_as(x_BTE)
        return x_BTE.masked_scatter(mask_BT[..., None], features_NE.to(x_BTE.dtype))

    def _touch_vision(self, device: torch.device) -> torch.Tensor:
        """Run the vision side on one blank patch and return 0, because every rank must run every part in every step."""
        vision: Any = self.config.vision_config
        pixels_PK = torch.zeros(1, vision.num_channels * vision.patch_size**2, device=device)
        size = np.ones((1, 2), dtype=np.int64)
        return 0.0 * self.resampler(self.vision_tower(pixels_PK, size), size).sum()

    def logits(self, hidden_BTE: torch.Tensor, keep: int | torch.Tensor = 0) -> torch.Tensor:
        """Logits of the last `keep` positions (0: all), or of these. The placeholder cannot be generated."""
        part = slice(-keep, None) if isinstance(keep, int) else keep
        logits = self.get_output_embeddings()(hidden_BTE[:, part])
        if 0 <= self.image_token_id < logits.shape[-1]:
            logits[..., self.image_token_id] = -torch.inf
        return logits

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, *args: Any, is_first_iteration: bool | None = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Pass the visual features with the prompt. With a cache, later steps do not need them."""
        features = kwargs.pop("image_features", None)
        parent: Any = super()
        inputs = parent.prepare_inputs_for_generation(input_ids, *args, is_first_iteration=is_first_iteration, **kwargs)
        if features is not None and (is_first_iteration or not kwargs.get("use_cache", True)):
            new_ids = inputs.get("input_ids")
            inputs["image_features"] = features if new_ids is None else self._new_features(features, input_ids, new_ids)
        return inputs

    def _new_features(self, features_NE: torch.Tensor, ids_BT: torch.Tensor, new_ids_BS: torch.Tensor) -> torch.Tensor:
        """The features of placeholders among the new ids. The cache already holds the others."""
        if new_ids_BS.shape == ids_BT.shape:
            return features_NE
        counts, left = (ids.eq(self.image_token_id).sum(dim=1).tolist() for ids in (ids_BT, new_ids_BS))
        if len(features_NE) != sum(counts):
            return features_NE  # only those of the new images
        rows = zip(features_NE.split(counts), left, strict=True)
        return torch.cat([row[len(row) - n :] for row, n in rows])

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Encode the images once, then repeat rows and their features for several sequences or beams.

        `generate` calls this once per call, before the prompt is run.
        """
        pixels = {name: model_kwargs.pop(name, None) for name in ("pixel_values", "view_sizes", "image_grids")}
        features = model_kwargs.pop("image_features", None)
        if features is None and pixels["pixel_values"] is not None:
            features = self.encode_images(**pixels)
        if features is not None and expand_size > 1:
            counts = input_ids.eq(self.image_token_id).sum(dim=1).tolist()
            if sum(counts) != len(features):
                raise ValueError(f"{sum(counts)} image placeholders but {len(features)} image features")
            features = torch.cat([row.repeat(expand_size, 1) for row in features.split(counts)])
        parent: Any = super()
        input_ids, model_kwargs = parent._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        if features is not None:
            model_kwargs["image_features"] = features
        return input_ids, model_kwargs


def make_projector(config: SicogConfig) -> Resampler | MlpProjector:
    """The projector that the config declares, without weights."""
    text: Any = config.text_config
    vision: Any = config.vision_config
    if config.projector_type == "mlp":
        return MlpProjector(width=text.hidden_size, vision_width=vision.hidden_size)
    return Resampler(
        query_grid=config.query_grid,
        width=text.hidden_size,
        vision_width=vision.hidden_size,
        n_heads=config.resampler_heads or 1,
        regions_dtype=config.regions_dtype,
    )


@lru_cache(maxsize=512)
@torch.inference_mode(False)  # cached for later calls, and autograd refuses to save tensors of inference mode
def _layout_order(grids: tuple[tuple[int, int], ...], query_grid: int) -> torch.Tensor:
    """int64 [N]: for every visual feature of the batch, its index in the resampler's outputs [V * Q]."""
    order, start = [], 0
    for columns, rows in grids:
        places = feature_order(columns, rows, query_grid)
        order.append(torch.tensor(places) + start)
        start += len(places)
    return torch.cat(order)


AutoModel.register(SicogConfig, SicogForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(SicogConfig, SicogForConditionalGeneration, exist_ok=True)
