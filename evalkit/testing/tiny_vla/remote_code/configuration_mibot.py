"""Configuration of a model with the shape of Xiaomi-Robotics-0: a Qwen3-VL backbone and a flow-matching action head."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, Qwen3VLConfig


class MiBoTDiTConfig(PretrainedConfig):
    """The diffusion transformer (DiT) that turns noise into actions; the defaults are the released shape."""

    model_type = "mibot_dit"
    base_config_key = "dit_config"

    def __init__(
        self,
        hidden_size: int = 1024,
        intermediate_size: int = 4096,
        num_hidden_layers: int = 16,
        head_dim: int = 128,
        num_key_value_heads: int = 8,
        hidden_act: str = "silu",
        rms_norm_eps: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.head_dim = head_dim
        self.num_key_value_heads = num_key_value_heads
        self.hidden_act = hidden_act
        self.rms_norm_eps = rms_norm_eps
        super().__init__(**kwargs)

    @property
    def num_attention_heads(self) -> int:
        """Query heads: as many as fill the hidden size."""
        return self.hidden_size // self.head_dim


class MiBoTConfig(PretrainedConfig):
    """The whole model.

    Attributes:
        vlm_config: the Qwen3-VL backbone (text and vision).
        dit_config: the action head. Its key/value heads and head size are the backbone's, whose cache it reads.
        state_length: state tokens per request.
        state_dim: width of the padded state vector.
        action_length: longest action chunk T the model was made for.
        action_dim: width of the padded action vector.
        action_prefix: whether ``forward`` takes a committed action prefix.
        local_window: how many earlier actions an action sees besides state and sink (the Λ-shaped mask); None for all.
    """

    model_type = "mibot"
    sub_configs = {"vlm_config": Qwen3VLConfig, "dit_config": MiBoTDiTConfig}  # noqa: RUF012

    def __init__(
        self,
        vlm_config: Qwen3VLConfig | dict[str, Any] | None = None,
        dit_config: MiBoTDiTConfig | dict[str, Any] | None = None,
        state_length: int = 1,
        state_dim: int = 32,
        action_length: int = 30,
        action_dim: int = 32,
        action_prefix: bool = False,
        local_window: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.vlm_config = vlm_config if isinstance(vlm_config, Qwen3VLConfig) else Qwen3VLConfig(**(vlm_config or {}))
        self.dit_config = dit_config if isinstance(dit_config, MiBoTDiTConfig) else MiBoTDiTConfig(**(dit_config or {}))
        self.state_length = state_length
        self.state_dim = state_dim
        self.action_length = action_length
        self.action_dim = action_dim
        self.action_prefix = action_prefix
        self.local_window = local_window
        super().__init__(**kwargs)
