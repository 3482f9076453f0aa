"""The papers' equations in plain numpy, for golden tests: one example at a time, in float64, as they are printed.

Nothing here calls the models; a block's weights come as a dict of arrays by parameter name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

Array = npt.NDArray[np.float64]
Weights = Mapping[str, Array]

META_SEES = {"inter": ("shared", "inter"), "watch": ("shared", "watch"), "shared": ("shared", "inter", "watch")}
TASK_SEES = {
    "click": ("shared", "inter", "click"),
    "follow": ("shared", "inter", "follow"),
    "long_view": ("shared", "watch", "long_view"),
    "gift": ("shared", "inter", "gift"),
}
META_ORDER = ("inter", "watch", "shared")
TASK_ORDER = (*META_ORDER, *TASK_SEES)


def weights(module: nn.Module) -> Weights:
    """Parameters and buffers by name."""
    return {name: np.asarray(tensor.detach().double()) for name, tensor in module.state_dict().items()}


def part(w: Weights, path: str) -> Weights:
    """The weights below ``path``, by what follows it."""
    return {name.removeprefix(path + "."): array for name, array in w.items() if name.startswith(path + ".")}


def sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x: Array) -> Array:
    return np.exp(x) / np.exp(x).sum()


def silu(x: Array) -> Array:
    return np.asarray(x * sigmoid(x))


def gelu(x: Array) -> Array:
    return np.array([0.5 * value * (1.0 + math.erf(value / math.sqrt(2.0))) for value in x])


def linear(x: Array, w: Weights, name: str) -> Array:
    return np.asarray(w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0.0))


def rms_norm(x: Array, weight: Array) -> Array:
    return np.asarray(x / math.sqrt(sum(value**2 for value in x) / len(x) + 1e-6) * weight)


def rope(x: Array, position: int) -> Array:
    """RoFormer: pair j is turned by position * 10000 ** (-2 j / d)."""
    turned = []
    for j in range(len(x) // 2):
        angle = position * 10_000.0 ** (-2 * j / len(x))
        first, second = x[2 * j], x[2 * j + 1]
        turned += [
            first * math.cos(angle) - second * math.sin(angle),
            first * math.sin(angle) + second * math.cos(angle),
        ]
    return np.array(turned)


def attention(x: Array, mask: Sequence[bool], w: Weights, heads: int = 1) -> Array:
    """x [L, D]: every position reads the positions where mask is True."""
    dim = x.shape[1]
    size = dim // heads
    keys = [j for j, is_there in enumerate(mask) if is_there]
    out = []
    for i in range(len(x)):
        read = np.zeros(dim)
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            query = rope((w["query_key.weight"][:dim] @ x[i])[own], i)
            scores = [query @ rope((w["query_key.weight"][dim:] @ x[j])[own], j) / math.sqrt(size) for j in keys]
            for weight, j in zip(softmax(np.array(scores)), keys, strict=True):
                read[own] += weight * (w["value.weight"] @ x[j])[own]
        out.append(w["out.weight"] @ read)
    return np.array(out)


def transformer_block(x: Array, mask: Sequence[bool], w: Weights, heads: int = 1) -> Array:
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""
    normed = np.array([rms_norm(row, w["attention_norm.weight"]) for row in x])
    x = x + attention(normed, mask, part(w, "attention"), heads)
    return np.array(
        [row + linear(gelu(linear(rms_norm(row, w["ffn_norm.weight"]), w, "ffn.up")), w, "ffn.down") for row in x]
    )


def gate(state: Array, live: Array, w: Weights) -> float:
    """alpha of SARM eq. 3."""
    key = linear(live, w, "key")
    match = rms_norm(state, w["state_norm.weight"]) @ rms_norm(key, w["key_norm.weight"])
    return float(sigmoid(match / math.sqrt(len(state))))


def semantic_anchor_encoder(base: Sequence[int], live: Sequence[int], w: Weights, blocks: int) -> Array:
    """SARM eq. 3 to 5 for one anchor without padding: base and live rows -> states [T, D]."""
    states = np.array([w["tokens.weight"][row] for row in base])
    for layer in range(blocks):
        states = transformer_block(states, [True] * len(base), part(w, f"blocks.{layer}"))
        if fusion := part(w, f"fusions.{layer}"):
            vectors = [w["live_tokens.weight"][row] for row in live]
            states = np.array(
                [
                    h + gate(h, e, fusion) * linear(e, fusion, "value") if row else h
                    for h, e, row in zip(states, vectors, live, strict=True)
                ]
            )
    return np.array([rms_norm(state, w["norm.weight"]) for state in states])


def author_identity(identity: Array, states: Array, w: Weights) -> Array:
    """SARM eq. 7: the author's id asks, the states answer."""
    query = linear(identity, w, "query")
    scores = np.array([query @ linear(state, w, "key") for state in states]) / math.sqrt(states.shape[1])
    values = [linear(state, w, "value") for state in states]
    return np.asarray(sum(weight * value for weight, value in zip(softmax(scores), values, strict=True)))


def user_interest(history: Array, w: Weights, blocks: int, heads: int) -> Array:
    """SARM eq. 10 for one history without padding: [L, D] -> [D]."""
    for layer in range(blocks):
        history = transformer_block(history, [True] * len(history), part(w, f"blocks.{layer}"), heads)
    return np.asarray(np.mean([rms_norm(item, w["norm.weight"]) for item in history], axis=0))


def feature_gate(v: Array, w: Weights, group: int) -> Array:
    """HoME eq. 8 to 10, the gate of one group for one v."""
    down, up, mix = w["down"][group], w["up"][group], w["mix"][group]
    rank = len(v) // len(up)
    loras = [2.0 * sigmoid(v @ (down[:, i * rank : (i + 1) * rank] @ up[i])) for i in range(len(up))]
    return np.asarray(sum(weight * lora for weight, lora in zip(softmax(v @ mix), loras, strict=True)))


def experts(x: Array, w: Weights, group: int, num_experts: int, training: bool) -> Array:
    """HoME eq. 4, 5, the experts of one group: Swish(BatchNorm(x W)), x [B, V] -> [B, E, D]."""
    hidden = x @ w["weight"][group]
    own = slice(group * hidden.shape[1], (group + 1) * hidden.shape[1])
    mean, variance = w["norm.running_mean"][own], w["norm.running_var"][own]
    if training:
        mean, variance = hidden.mean(axis=0), ((hidden - hidden.mean(axis=0)) ** 2).mean(axis=0)
    normed = (hidden - mean) / np.sqrt(variance + 1e-5) * w["norm.weight"][own] + w["norm.bias"][own]
    return silu(normed).reshape(len(x), num_experts, -1)


def gated_experts(inputs: Mapping[str, Array], w: Weights, num_experts: int, training: bool) -> dict[str, Array]:
    """Every group's experts on its own gated input v (.) Fea_Gate(v)."""
    found = {}
    for index, (group, x) in enumerate(inputs.items()):
        gated = np.array([v * feature_gate(v, part(w, "feature_gates"), index) for v in x])
        found[group] = experts(gated, part(w, "experts"), index, num_experts, training)
    return found


def home_meta(v: Array, w: Weights, num_experts: int, training: bool) -> dict[str, Array]:
    """HoME eq. 6 and 11: v [B, V] -> z_meta + z_meta,self of each group, [B, D]."""
    of = gated_experts(dict.fromkeys(META_ORDER, v), w, num_experts, training)
    z: dict[str, Array] = {}
    for group, seen in META_SEES.items():
        rows = []
        for row, x in enumerate(v):
            weight = softmax(linear(x, w, f"gates.{group}"))
            own = linear(x, w, f"self_gates.{group}")
            own = sigmoid(own) if num_experts == 1 else softmax(own)
            rows.append(weight @ np.concatenate([of[name][row] for name in seen]) + own @ of[group][row])
        z[group] = np.array(rows)
    return z


def home_task(z: Mapping[str, Array], w: Weights, num_experts: int, training: bool) -> Array:
    """HoME eq. 7: meta outputs -> logits [B, K]."""
    category = {task: seen[1] for task, seen in TASK_SEES.items()}
    of = gated_experts({group: z[category.get(group, group)] for group in TASK_ORDER}, w, num_experts, training)
    logits = []
    for task, seen in TASK_SEES.items():
        column = []
        for row in range(len(z["shared"])):
            weight = softmax(linear(np.concatenate([z[seen[1]][row], z["shared"][row]]), w, f"gates.{task}"))
            mixed = weight @ np.concatenate([of[name][row] for name in seen])
            column.append(float(linear(silu(linear(mixed, w, f"towers.{task}.0")), w, f"towers.{task}.2")[0]))
        logits.append(column)
    return np.array(logits).T
