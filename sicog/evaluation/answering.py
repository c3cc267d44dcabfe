"""Answer prompts about images in batches with one of our checkpoints: greedy unless a temperature is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from sicog.evaluation.forms import Prompt
from sicog.model.checkpoints import load_checkpoint
from sicog.model.image_processing import load_image
from sicog.model.kernels.choice import chosen_attention, use_attention
from sicog.model.precision import Precision, chosen_device, resolve_precision
from sicog.records import Turn


class Answering:
    """A loaded checkpoint. Batches are padded on the left; greedy tokens are the same as with batches of one row."""

    def __init__(
        self,
        checkpoint: Path,
        *,
        slicing: bool = True,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        dtype = resolve_precision(precision, device)
        loaded: tuple[Any, Any] = load_checkpoint(checkpoint, dtype=dtype, device=chosen_device(device))
        self.model, self.processor = loaded
        # flash-attn does not support the mask of the padding.
        use_attention(self.model, language_model="sdpa", vision_tower=chosen_attention("auto", precision, device))
        self.slicing, self.seed, self._n_batches = slicing, seed, 0
        own = self.model.generation_config.eos_token_id
        ends = {self.processor.end_token_id, self.processor.tokenizer.eos_token_id}
        self.end_ids = sorted((ends | set(own if isinstance(own, list) else [own])) - {None})
        self.max_positions = int(self.model.config.text_config.max_position_embeddings)
        # Set every value: a missing one would come from the checkpoint's generation_config.json.
        sampled = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        self.settings = {
            "num_beams": 1,
            "repetition_penalty": 1.0,
            **(sampled if temperature else {"do_sample": False}),
        }

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return the answers, in order. Raises `ValueError` for an unreadable image or a prompt that is too long."""
        encoded = []
        for prompt in prompts:
            turn = Turn(role="user", text=prompt.text, images_at=prompt.images_at)
            images = [load_image(Path(path)) for path in prompt.images]
            row = self.processor.encode([turn], images, slicing=self.slicing, add_generation_prompt=True)
            if len(row.input_ids) >= self.max_positions:
                raise ValueError(
                    f"a prompt about {', '.join(prompt.images) or 'no image'} has {len(row.input_ids)} tokens, but "
                    f"prompt and answer must fit into {self.max_positions}. Shorten the prompt or lower max_new_tokens"
                )
            encoded.append(row)
        batch = self.processor.collate(encoded, padding_side="left", with_labels=False)
        n_prompt = batch["input_ids"].shape[1]
        # The last token is not fed back, so a sequence may be one token longer than the positions.
        room = self.max_positions + 1 - n_prompt
        torch.manual_seed(self.seed + self._n_batches)
        self._n_batches += 1
        config = GenerationConfig(
            **self.settings,
            max_new_tokens=min(max(prompt.max_new_tokens for prompt in prompts), room),
            eos_token_id=self.end_ids,
            pad_token_id=self.processor.pad_token_id,
        )
        inputs = {name: value.to(self.model.device) for name, value in batch.items()}
        out = self.model.generate(**inputs, generation_config=config)
        return [self._text(row.tolist()) for row in out[:, n_prompt:]]

    def _text(self, ids: list[int]) -> str:
        end = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
        return self.processor.decode(ids[:end])
