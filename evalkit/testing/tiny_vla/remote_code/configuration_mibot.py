"""Configuration of a model with the shape of Xiaomi-Robotics-0: a Qwen3-VL backbone and a flow-matching action head."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, Qwen3VLConfig


class DiTConfig(PretrainedConfig):
    """The diffusion transformer (DiT) that turns noise into actions; the defaults are the released shape."""

    model_type = "dit"

    def __init__(
        self,
        hidden_size: int = 1024,
        num_hidden_layers: int = 16,
        head_dim: int = 128,
        num_key_value_heads: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.head_dim = head_dim
        self.num_key_value_heads = num_key_value_heads


class MiBoTConfig(PretrainedConfig):
    """The whole model.

    Attributes:
        vlm_config: the Qwen3-VL backbone (text and vision).
        dit_config: the action head. Its key/value heads and head size are the backbone's, whose cache it reads.
        state_length: state tokens per request.
        state_dim: width of the padded state vector.
        action_length: longest action chunk T the model was made for.
        action_dim: width of the padded action vector.
    """

    model_type = "mibot"
    sub_configs = {"vlm_config": Qwen3VLConfig, "dit_config": DiTConfig}  # noqa: RUF012

    def __init__(
        self,
        vlm_config: Qwen3VLConfig | dict[str, Any] | None = None,
        dit_config: DiTConfig | dict[str, Any] | None = None,
        state_length: int = 1,
        state_dim: int = 32,
        action_length: int = 30,
        action_dim: int = 32,
        **kwargs: Any,
    ) -> None:
        self.vlm_config = vlm_config if isinstance(vlm_config, Qwen3VLConfig) else Qwen3VLConfig(**(vlm_config or {}))
        self.dit_config = dit_config if isinstance(dit_config, DiTConfig) else DiTConfig(**(dit_config or {}))
        self.state_length = state_length
        self.state_dim = state_dim
        self.action_length = action_length
        self.action_dim = action_dim
        super().__init__(**kwargs)
