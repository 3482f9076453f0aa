"""The examples in the docstrings of the models: they run, and every layer and model has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import nn

import models


def modules() -> list[str]:
    return ["models", *(found.name for found in pkgutil.walk_packages(models.__path__, "models."))]


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder()
    return [test for name in modules() for test in finder.find(importlib.import_module(name)) if test.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_an_example_gives_what_it_says(example: doctest.DocTest) -> None:
    torch.manual_seed(0)
    said: list[str] = []
    doctest.DocTestRunner().run(example, out=said.append)
    assert not said, "".join(said)


WITHOUT = {"SavedModel", "Source", "SARM", "SemanticIds"}
"""What is made of many parts, or meant to be made into a model: an example would be longer than the class."""


def layers() -> dict[str, type[nn.Module]]:
    """Public modules by name."""
    return {
        f"{name}.{cls.__name__}": cls
        for name in modules()
        for cls in vars(importlib.import_module(name)).values()
        if inspect.isclass(cls) and issubclass(cls, nn.Module) and cls.__module__ == name and cls.__name__[0] != "_"
        if cls.__name__ not in WITHOUT
    }


@pytest.mark.parametrize("name", layers())
def test_every_layer_shows_how_it_is_used(name: str) -> None:
    assert "Example:" in inspect.cleandoc(layers()[name].__doc__ or "")
