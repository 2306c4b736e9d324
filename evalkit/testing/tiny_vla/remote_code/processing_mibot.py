"""Turns prompts and images into model inputs, and normalised actions into a robot's units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

IMAGE_TOKEN = "<|image_pad|>"


class MiBotProcessor(ProcessorMixin):
    """An image processor, a tokenizer and the action statistics of each robot type.

    The statistics are in ``preprocessor_config.json``, under ``action_config[robot_type].{mean,std}``, (T, action_dim).
    Like the released class it asks for a video processor, which needs torchvision and is never used. A subclass with
    ``attributes = ["image_processor", "tokenizer"]`` loads without.
    """

    attributes = ["image_processor", "tokenizer", "video_processor"]  # noqa: RUF012
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"
    video_processor_class = "AutoVideoProcessor"

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)
        self._statistics = {
            robot_type: {name: torch.tensor(values[name], dtype=torch.float32) for name in ("mean", "std")}
            for robot_type, values in image_processor.action_config.items()
        }

    def __call__(
        self,
        images: list[Any] | None = None,
        text: str | list[str] | None = None,
        videos: None = None,
        padding: bool | str = False,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs for a batch of prompts.

        Args:
            images: PIL images of all prompts in one flat list, in the order of their ``<|image_pad|>``.
            text: the prompts.
            videos: not taken.
            padding: the tokenizer's; the side is ``tokenizer.padding_side``.
            return_tensors: "pt" for tensors.
            **kwargs: further arguments of the tokenizer.
        """
        if videos is not None:
            raise ValueError("this processor takes images, not videos")
        prompts = [text] if isinstance(text, str) else list(text or [])
        slots = sum(prompt.count(IMAGE_TOKEN) for prompt in prompts)
        if slots != len(images or []):
            raise ValueError(f"the prompts have {slots} {IMAGE_TOKEN}, but there are {len(images or [])} images")
        vision: dict[str, Any] = {}
        if images:
            vision = dict(self.image_processor(images=images, return_tensors=return_tensors))
            merged = self.image_processor.merge_size**2
            counts = iter([int(t * h * w) // merged for t, h, w in vision["image_grid_thw"]])
            prompts = [self._expanded(prompt, counts) for prompt in prompts]
        tokens = self.tokenizer(prompts, padding=padding, return_tensors=return_tensors, **kwargs)
        return BatchFeature({**tokens, **vision}, tensor_type=return_tensors)

    def list_robot_types(self) -> list[str]:
        """Return the robot types with statistics."""
        return list(self._statistics)

    def get_action_mask(self, robot_type: str, batch_size: int = 1) -> Tensor:
        """(batch_size, T, action_dim) float32, 1 where the robot type uses an action dimension."""
        return (self._of(robot_type)["std"] > 1e-5).float().repeat(batch_size, 1, 1)

    def decode_action(self, actions: Tensor, robot_type: str) -> Tensor:
        """(B, T, action_dim) float32 in the robot's units, from normalised actions."""
        statistics = self._of(robot_type)
        return actions.float() * statistics["std"].to(actions.device) + statistics["mean"].to(actions.device)

    @staticmethod
    def _expanded(prompt: str, counts: Any) -> str:
        first, *rest = prompt.split(IMAGE_TOKEN)
        return first + "".join(IMAGE_TOKEN * next(counts) + part for part in rest)

    def _of(self, robot_type: str) -> dict[str, Tensor]:
        if robot_type not in self._statistics:
            raise ValueError(f"unknown robot type {robot_type!r}: there are {', '.join(self._statistics)}")
        return self._statistics[robot_type]
