"""A model with the shape and interface of Xiaomi-Robotics-0: Qwen3-VL reads the scene, a DiT flows noise to actions.

Parameters have the released names, and every computation is the released one, so that either code gives the same
actions for the same weights. Some properties of the released code look like accidents, but callers depend on them:

- The flow time is embedded in bfloat16 whatever the model's dtype. A model in another dtype fails at its first pass,
  unless the caller sets ``t_embedder.dtype``.
- The class does not declare support for ``sdpa``: transformers refuses that implementation for it.
- ``forward`` passes every keyword argument on to the backbone, ``seed`` included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, Qwen3VLForConditionalGeneration
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextRMSNorm,
    Qwen3VLTextRotaryEmbedding,
    apply_rotary_pos_emb,
    repeat_kv,
)

from .configuration_mibot import DiTConfig, MiBoTConfig

Rotary = tuple[Tensor, Tensor]


@dataclass
class ActionGenerationOutput(ModelOutput):
    """The result of ``forward``.

    Attributes:
        actions: (B, T, action_dim), normalised; ``MiBotProcessor.decode_action`` gives them their units.
    """

    actions: torch.FloatTensor | None = None


class TimestepEmbedder(nn.Module):
    """Embeds flow times, scaled to [0, 1000]: sinusoids through a small MLP.

    Attributes:
        dtype: dtype of the sinusoids; the MLP's weights must have the same.
    """

    frequencies = 256

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(self.frequencies, hidden_size, bias=False),
            nn.SiLU(),
            nn.Linear(hidden_size, hidden_size, bias=False),
        )
        self.dtype = torch.bfloat16

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, 1, hidden_size)."""
        half = self.frequencies // 2
        index = torch.arange(half, dtype=torch.float32, device=t.device)
        angle = t[:, None].float() * torch.exp(-math.log(10_000) * index / half)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.dtype))[:, None]


class MLPProjector(nn.Module):
    """Linear layers with GELU between them."""

    def __init__(self, input_dim: int, output_dim: int, num_layers: int = 1, bias: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(input_dim, output_dim, bias=bias)]
        for _ in range(1, num_layers):
            layers += [nn.GELU(approximate="tanh"), nn.Linear(output_dim, output_dim, bias=bias)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., input_dim) -> (..., output_dim)."""
        return self.layers(x)


class Attention(nn.Module):
    """Attention from the action head's tokens to one backbone layer's cache and to themselves."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.num_heads = config.hidden_size // config.head_dim
        self.num_key_value_groups = self.num_heads // config.num_key_value_heads
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.q_norm = Qwen3VLTextRMSNorm(self.head_dim)
        self.k_norm = Qwen3VLTextRMSNorm(self.head_dim)

    def forward(self, tokens: Tensor, past: Rotary, position_embeds: Rotary, attn_mask: Tensor) -> Tensor:
        """(B, n, hidden), with ``past`` the layer's keys and values and ``attn_mask`` True where a token may look."""
        batch, length, _ = tokens.shape
        query, key, value = self.qkv_proj(tokens).view(batch, length, 3, self.num_heads, self.head_dim).unbind(2)
        query, key = self.q_norm(query).transpose(1, 2), self.k_norm(key).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeds)
        old_key, old_value = (repeat_kv(part, self.num_key_value_groups) for part in past)
        key = torch.cat([old_key, key], dim=-2)
        value = torch.cat([old_value, value.transpose(1, 2)], dim=-2)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
        return self.o_proj(seen.transpose(1, 2).contiguous().view(batch, length, -1))


class ActionMLP(nn.Module):
    """A gated MLP, four times as wide as its input."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.down_proj = nn.Linear(4 * hidden_size, hidden_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., hidden) -> (..., hidden)."""
        return self.down_proj(functional.silu(self.gate_proj(tokens)) * self.up_proj(tokens))


class DecoderLayer(nn.Module):
    """Attention and MLP, each between a modulated norm and a gated residual with a norm after it (adaLN).

    The modulation is the flow time's, which all layers share, plus the layer's own table.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.mlp = ActionMLP(config.hidden_size)
        self.input_layernorm = Qwen3VLTextRMSNorm(config.hidden_size)
        self.middle_layernorm = Qwen3VLTextRMSNorm(config.hidden_size)
        self.post_layernorm = Qwen3VLTextRMSNorm(config.hidden_size)
        self.final_layernorm = Qwen3VLTextRMSNorm(config.hidden_size)
        self.adaln_table = nn.Parameter(torch.zeros(6, config.hidden_size))

    def forward(
        self, tokens: Tensor, past: Rotary, position_embeds: Rotary, t_embeds: Tensor, attn_mask: Tensor
    ) -> Tensor:
        """(B, n, hidden) -> (B, n, hidden); ``t_embeds`` is (B, 6, hidden)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (self.adaln_table[None] + t_embeds).chunk(6, dim=1)
        seen = self.input_layernorm(tokens) * (1 + scale) + shift
        tokens = self.middle_layernorm(tokens + gate * self.attn(seen, past, position_embeds, attn_mask))
        seen = self.post_layernorm(tokens) * (1 + mlp_scale) + mlp_shift
        return self.final_layernorm(tokens + mlp_gate * self.mlp(seen))


class DiT(nn.Module):
    """The action head's layers. The last of them reads the backbone's last layer, and so on backwards."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(
        self, tokens: Tensor, past_key_values: Cache, attn_mask: Tensor, position_embeds: Rotary, t_embeds: Tensor
    ) -> Tensor:
        """(B, n, hidden) -> (B, n, hidden)."""
        cached = past_key_values.layers[len(past_key_values.layers) - len(self.layers) :]
        for layer, past in zip(self.layers, cached, strict=True):
            tokens = layer(tokens, (past.keys, past.values), position_embeds, t_embeds, attn_mask=attn_mask)
        return tokens


class MiBoTForActionGeneration(PreTrainedModel):
    """Observation, instruction and state in; a chunk of normalised actions out."""

    config_class = MiBoTConfig
    base_model_prefix = "vlm"
    _supports_flash_attn = True
    _tied_weights_keys = ["vlm.lm_head.weight"]  # noqa: RUF012
    _no_split_modules = ["Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock", "DecoderLayer"]  # noqa: RUF012

    def __init__(self, config: MiBoTConfig) -> None:
        super().__init__(config)
        hidden_size = config.dit_config.hidden_size
        self.vlm = Qwen3VLForConditionalGeneration(config.vlm_config)
        self.dit = DiT(config.dit_config)
        self.state_projector = MLPProjector(config.state_dim, hidden_size, num_layers=2)
        self.action_projector = MLPProjector(config.action_dim, hidden_size, num_layers=2)
        self.action_output_layer = MLPProjector(hidden_size, config.action_dim, num_layers=2)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.t_projector = MLPProjector(hidden_size, 6 * hidden_size, bias=True)
        self.rotary_emb = Qwen3VLTextRotaryEmbedding(config.vlm_config.text_config)
        self.sink = nn.Embedding(1, hidden_size)
        self.post_init()

    @torch.no_grad()
    def forward(self, state: Tensor, action_mask: Tensor, num_steps: int = 5, **kwargs: Any) -> ActionGenerationOutput:
        """Sample one action chunk per row.

        Args:
            state: (B, state_length, state_dim), in the model's dtype.
            action_mask: (B, T, action_dim), 1 where an action dimension is used; in the model's dtype. Its shape, dtype
                and device decide the initial noise, together with the seed.
            num_steps: Euler steps from noise to action.
            **kwargs: ``seed`` (int, required); ``input_ids``, ``attention_mask``, ``pixel_values`` and
                ``image_grid_thw``. The backbone receives all of them.
        """
        vlm = self.vlm(**kwargs, use_cache=True)
        padding_mask = kwargs["attention_mask"]
        positions, _ = self.vlm.model.get_rope_index(
            kwargs["input_ids"], kwargs.get("image_grid_thw"), None, attention_mask=padding_mask
        )
        batch, length, _ = action_mask.shape
        queries = 1 + state.shape[1] + length
        order = torch.arange(queries, device=action_mask.device).view(1, 1, -1).repeat(3, batch, 1)
        causal = torch.ones((batch, queries, queries), device=action_mask.device).tril()
        attn_mask = torch.cat([padding_mask[:, None, :].expand(-1, queries, -1), causal], dim=-1)[:, None].bool()
        condition: dict[str, Any] = {
            "action_mask": action_mask,
            "state_embed": self.state_projector(state),
            "position_embeds": self.rotary_emb(action_mask, order + positions.max(dim=-1)[0][..., None] + 1),
            "past_key_values": vlm.past_key_values,
            "attn_mask": attn_mask,
        }
        # manual_seed reaches every GPU; the released code puts back the generators of the CPU and of this device alone.
        with torch.random.fork_rng(devices=[action_mask.device] if action_mask.is_cuda else []):
            torch.manual_seed(kwargs["seed"])
            actions = torch.randn_like(action_mask)
        for step in range(num_steps):
            t = torch.ones((batch, 1, 1), device=actions.device, dtype=actions.dtype) * step / num_steps
            actions = actions + self.dit_forward(noisy_action=actions, t=t, **condition) * (1.0 / num_steps)
        return ActionGenerationOutput(actions=actions)

    def dit_forward(
        self,
        noisy_action: Tensor,
        t: Tensor,
        action_mask: Tensor,
        state_embed: Tensor,
        position_embeds: Rotary,
        past_key_values: Cache,
        attn_mask: Tensor,
    ) -> Tensor:
        """Return the flow's velocity at ``noisy_action`` and time ``t``. Differentiable.

        Args:
            noisy_action: (B, T, action_dim).
            t: (B, 1, 1), from 0 (noise) to 1 (action).
            action_mask: (B, T, action_dim).
            state_embed: (B, state_length, hidden).
            position_embeds: cosines and sines of the query tokens, each (B, 1 + state_length + T, head_dim).
            past_key_values: the backbone's cache.
            attn_mask: (B, 1, 1 + state_length + T, keys) bool, True where a token may look.

        Returns:
            (B, T, action_dim).
        """
        t_embeds = self.t_projector(self.t_embedder(t[:, 0, 0] * 1000)).view(len(t), 6, -1)
        noisy_tokens = self.action_projector(noisy_action * action_mask)
        sink = self.sink.weight[None].repeat(len(state_embed), 1, 1)
        tokens = torch.cat([sink, state_embed, noisy_tokens], dim=1).contiguous()
        tokens = self.dit(tokens, past_key_values, attn_mask, position_embeds, t_embeds)
        return self.action_output_layer(tokens[:, -noisy_action.shape[1] :])
