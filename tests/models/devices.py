"""A second device without a second device, on which an operation over tensors of both fails, as it would on a GPU.

PyTorch checks devices in its kernels, so that on a machine with a CPU alone nothing ever fails. Here tensors on
``DEVICE`` are CPU tensors in a wrapper that says otherwise: they are computed on the CPU, and where one meets a tensor
that was left on the CPU, ``DeviceMix`` is raised.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
"""The name that PyTorch accepts for a device without kernels: autograd runs over it, and nothing takes it for a CPU."""

_COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
"""What may take tensors of both devices. Reading by index is not among them, although CUDA lets CPU indices pass."""


class DeviceMix(RuntimeError):
    """An operation was given tensors of both devices."""


class _Placed(Tensor):
    """A CPU tensor that says it is on DEVICE."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> _Placed:
        placed: _Placed = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        placed.inner = inner
        return placed

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)  # torch.save writes values; a reader chooses its own device


class _Watch(TorchDispatchMode):
    """Sees what makes tensors out of nothing, too."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Makes tensors of Python numbers on the CPU first: straight on DEVICE they would have no values."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.tensor and "device" in given:
            device = given.pop("device")
            return torch.tensor(*args, **given).to(device)
        if func is Tensor.new_tensor:
            like, data = args
            return torch.tensor(data, **{"dtype": like.dtype, **given}).to(like.device)
        return func(*args, **given)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Gives DEVICE, to and from which ``.to`` and ``.cpu`` move tensors within the block.

    One number on the CPU (a tensor without dimensions) may meet anything, as on CUDA. Random numbers are drawn by the
    CPU's generator, unless one is passed: that one would have to be of the device.
    """
    fused = mock.patch(
        "torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: ["cpu", "cuda", DEVICE.type]
    )
    with fused, sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings(), _Watch(), _Literals():
        # For it takes DEVICE for a device without values.
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter", UserWarning)
        yield DEVICE


def _run(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The operation on the CPU, and its tensors on DEVICE again where they belong there."""
    leaves = tree_leaves((args, kwargs))
    placed = [leaf for leaf in leaves if isinstance(leaf, _Placed)]
    there = _is_there(func, leaves, kwargs.get("device"))
    if there and func not in _COPIES:
        left = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, _Placed) and leaf.ndim]
        if placed and left:
            raise DeviceMix(f"{func} got tensors {_shapes(placed)} on the device and {_shapes(left)} on the CPU")
        if any(isinstance(leaf, torch.Generator) for leaf in leaves):
            raise DeviceMix(f"{func} draws on the device with a generator of the CPU")
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    given = {id(leaf.inner): leaf for leaf in placed}
    out = func(*tree_map(_unwrapped, tuple(args)), **tree_map(_unwrapped, dict(kwargs)))
    return tree_map(lambda x: _wrapped(x, given), out) if there else out


def _is_there(func: Callable[..., Any], leaves: Sequence[Any], device: torch.device | None) -> bool:
    """Whether the result belongs on DEVICE: as was asked, or where the tensors are; a copy is where its target is."""
    if device is not None:
        return device.type == DEVICE.type
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return any(isinstance(t, _Placed) for t in (tensors[:1] if func in _COPIES else tensors))


def _unwrapped(x: Any) -> Any:
    return x.inner if isinstance(x, _Placed) else x


def _wrapped(x: Any, given: Mapping[int, _Placed]) -> Any:
    """An operation in place gives back the very tensor that it was given."""
    if not isinstance(x, Tensor):
        return x
    return given[id(x)] if id(x) in given else _Placed(x)


def _shapes(tensors: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]
