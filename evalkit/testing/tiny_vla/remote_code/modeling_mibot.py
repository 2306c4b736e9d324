"""A model with the shape and interface of Xiaomi-Robotics-0: Qwen3-VL reads the scene, a DiT flows noise to actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen3VLForConditionalGeneration
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextMLP,
    Qwen3VLTextRMSNorm,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from .configuration_mibot import MiBoTConfig, MiBoTDiTConfig

Rotary = tuple[Tensor, Tensor]


@dataclass
class ActionGenerationOutput(ModelOutput):
    """The result of ``forward``.

    Attributes:
        actions: (B, T, action_dim), normalised; ``MiBotProcessor.decode_action`` gives them their units.
    """

    actions: torch.FloatTensor | None = None


class FlowTimeEmbedding(nn.Module):
    """Embeds flow times in [0, 1]: sinusoids of 1000 t through a small MLP."""

    frequencies = 256

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(self.frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, t: Tensor) -> Tensor:
        """(..., 1) -> (..., hidden_size)."""
        half = self.frequencies // 2
        ladder = torch.exp(-math.log(10_000.0) / half * torch.arange(half, device=t.device, dtype=torch.float32))
        angle = 1000.0 * t.float() * ladder
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1).to(t.dtype))


class DiTAttention(nn.Module):
    """Attention from the action head's tokens to one backbone layer's cache and to themselves."""

    def __init__(self, config: MiBoTDiTConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)
        self.q_norm = Qwen3VLTextRMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = Qwen3VLTextRMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(
        self, tokens: Tensor, past: tuple[Tensor, Tensor], position_embeds: Rotary, attn_mask: Tensor
    ) -> Tensor:
        """(B, n, hidden), with ``past`` the layer's keys and values and ``attn_mask`` True where a token may look."""
        batch, length, _ = tokens.shape
        heads = (batch, length, -1, self.head_dim)
        query = self.q_norm(self.q_proj(tokens).view(heads)).transpose(1, 2)
        key = self.k_norm(self.k_proj(tokens).view(heads)).transpose(1, 2)
        value = self.v_proj(tokens).view(heads).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeds)
        key = torch.cat([past[0], key], dim=2)
        value = torch.cat([past[1], value], dim=2)
        if self.config._attn_implementation == "eager":
            attend = eager_attention_forward
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(
                ~attn_mask, torch.finfo(query.dtype).min
            )
        else:  # flash-attn takes no such mask: there, it is the backbone's kernel only
            attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        seen, _ = attend(self, query, key, value, attn_mask, scaling=self.head_dim**-0.5)
        return self.o_proj(seen.reshape(batch, length, -1))


class DiTLayer(nn.Module):
    """Attention and MLP, each between a modulated norm and a gated residual (adaLN).

    The modulation is the flow time's, which all layers share, plus the layer's own table.
    """

    def __init__(self, config: MiBoTDiTConfig) -> None:
        super().__init__()
        self.attention = DiTAttention(config)
        self.mlp = Qwen3VLTextMLP(config)
        self.attention_norm = Qwen3VLTextRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp_norm = Qwen3VLTextRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.modulation_table = nn.Parameter(torch.zeros(6 * config.hidden_size))

    def forward(
        self,
        tokens: Tensor,
        past: tuple[Tensor, Tensor],
        position_embeds: Rotary,
        attn_mask: Tensor,
        modulation: Tensor,
    ) -> Tensor:
        """(B, n, hidden) -> (B, n, hidden); ``modulation`` is (B, n, 6 hidden), one flow time per token."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (modulation + self.modulation_table).chunk(6, dim=-1)
        seen = self.attention_norm(tokens) * (1 + scale) + shift
        tokens = tokens + gate * self.attention(seen, past, position_embeds, attn_mask)
        seen = self.mlp_norm(tokens) * (1 + mlp_scale) + mlp_shift
        return tokens + mlp_gate * self.mlp(seen)


class MiBoTForActionGeneration(PreTrainedModel):
    """Observation, instruction and state in; a chunk of normalised actions out."""

    config_class = MiBoTConfig
    _supports_sdpa = True
    _supports_flash_attn = True
    _tied_weights_keys = ["vlm.lm_head.weight"]  # noqa: RUF012
    _no_split_modules = ["Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock", "DiTLayer"]  # noqa: RUF012

    def __init__(self, config: MiBoTConfig) -> None:
        super().__init__(config)
        dit = config.dit_config
        self.vlm = Qwen3VLForConditionalGeneration(config.vlm_config)
        self.dit = nn.ModuleList([DiTLayer(dit) for _ in range(dit.num_hidden_layers)])
        self.sink = nn.Embedding(1, dit.hidden_size)
        self.state_projector = nn.Linear(config.state_dim, dit.hidden_size)
        self.action_projector = nn.Linear(config.action_dim, dit.hidden_size)
        self.flow_time = FlowTimeEmbedding(dit.hidden_size)
        self.modulator = nn.Sequential(nn.SiLU(), nn.Linear(dit.hidden_size, 6 * dit.hidden_size))
        self.action_norm = Qwen3VLTextRMSNorm(dit.hidden_size, eps=dit.rms_norm_eps)
        self.action_output = nn.Linear(dit.hidden_size, config.action_dim)
        self.post_init()

    @torch.no_grad()
    def forward(
        self,
        state: Tensor,
        action_mask: Tensor,
        num_steps: int = 5,
        action_prefix: Tensor | None = None,
        prefix_length: Tensor | None = None,
        **kwargs: Any,
    ) -> ActionGenerationOutput:
        """Sample one action chunk per row.

        Args:
            state: (B, state_length, state_dim), in the model's dtype.
            action_mask: (B, T, action_dim), 1 where an action dimension is used; in the model's dtype. Its shape, dtype
                and device decide the initial noise, together with the seed.
            num_steps: Euler steps from noise to action.
            action_prefix: (B, T, action_dim) normalised actions of which each row's first ``prefix_length`` are already
                committed: the chunk begins with them and continues them. The rest is ignored.
            prefix_length: (B,) int64, 0 for a row without prefix.
            **kwargs: ``seed`` (int, required); ``input_ids``, ``attention_mask``, ``pixel_values`` and
                ``image_grid_thw``, which go to the backbone.
        """
        seed = kwargs.pop("seed")
        if (action_prefix is None) != (prefix_length is None):
            raise ValueError("action_prefix and prefix_length go together")
        if action_prefix is not None and not self.config.action_prefix:
            raise ValueError("this model was not trained with an action prefix (config.action_prefix is false)")

        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = torch.ones_like(kwargs["input_ids"])
        vlm = self.vlm(**kwargs, use_cache=True, logits_to_keep=1)
        padding_mask = kwargs["attention_mask"].bool()
        # The backbone's rope_deltas are "next position minus padded length", whichever side is padded.
        start = vlm.rope_deltas.view(-1, 1) + padding_mask.shape[1]

        batch, length, _ = action_mask.shape
        queries = 1 + state.shape[1] + length
        positions = start.to(state.device) + torch.arange(queries, device=state.device)
        condition: dict[str, Any] = {
            "action_mask": action_mask,
            "state_embed": self.state_projector(state),
            "position_embeds": self.vlm.language_model.rotary_emb(state, positions.expand(3, batch, queries)),
            "past_key_values": vlm.past_key_values,
            "attn_mask": self._attention_mask(padding_mask, state.shape[1], length),
        }
        held = None
        if action_prefix is not None and prefix_length is not None:
            held = (torch.arange(length, device=state.device) < prefix_length.to(state.device).view(-1, 1))[..., None]
            condition["held"] = held
            action_prefix = action_prefix.to(action_mask)

        # manual_seed reaches every GPU, so every GPU's generator is put back.
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(seed)
            actions = torch.randn_like(action_mask)
        for step in range(num_steps):
            if held is not None:
                actions = torch.where(held, action_prefix, actions)
            t = torch.full((batch, 1, 1), step / num_steps, dtype=state.dtype, device=state.device)
            actions = actions + self.dit_forward(noisy_action=actions, t=t, **condition) / num_steps
        if held is not None:
            actions = torch.where(held, action_prefix, actions)
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
        held: Tensor | None = None,
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
            held: (B, T, 1) bool, True for the actions of a committed prefix, which are at flow time 1 already.

        Returns:
            (B, T, action_dim).
        """
        batch, length, _ = noisy_action.shape
        sink = self.sink.weight.expand(batch, 1, -1)
        tokens = torch.cat([sink, state_embed, self.action_projector(noisy_action * action_mask)], dim=1)
        before = tokens.shape[1] - length
        # One time per token, with or without a prefix: so a row's arithmetic does not depend on its neighbours' prefix.
        times = t.expand(batch, tokens.shape[1], 1)
        if held is not None:
            times = times.masked_fill(nn.functional.pad(held, (0, 0, before, 0)), 1.0)
        modulation = self.modulator(self.flow_time(times))
        last_layers = past_key_values.layers[len(past_key_values.layers) - len(self.dit) :]
        for layer, cached in zip(self.dit, last_layers, strict=True):
            tokens = layer(tokens, (cached.keys, cached.values), position_embeds, attn_mask, modulation)
        return self.action_output(self.action_norm(tokens[:, before:]))

    def _attention_mask(self, padding_mask: Tensor, states: int, actions: int) -> Tensor:
        """Return [the backbone's padding mask | causal among the query tokens], (B, 1, queries, keys)."""
        queries = 1 + states + actions
        row = torch.arange(queries, device=padding_mask.device).view(-1, 1)
        column = row.view(1, -1)
        among = column <= row
        if self.config.local_window is not None:
            among = among & ((column <= states) | (row - column <= self.config.local_window))
        among = among.expand(len(padding_mask), -1, -1)
        return torch.cat([padding_mask[:, None].expand(-1, queries, -1), among], dim=-1)[:, None]
