"""Recipes: a name says all of a recipe and is read back; tables are whole; a wrong name is one clear line."""

from __future__ import annotations

import re

import pytest

from edge_runtime.engines import ENGINES
from edge_runtime.errors import UsageError
from edge_runtime.manifest import MODEL_FILES
from export.recipes import LONGEST_LINE, LONGEST_SLUG, OPTIONS, TARGETS, parse_recipe


@pytest.mark.parametrize("target", TARGETS)
def test_names_are_read_back_whatever_is_chosen(target: str) -> None:
    assert parse_recipe(target).name == target
    for option in (OPTIONS[name] for name in TARGETS[target].options):
        for value in option.choices or (option.example,):
            recipe = parse_recipe(f"{target}:{option.name}={value}")
            assert parse_recipe(recipe.name) == recipe and recipe.options[option.name] == value
            assert (recipe.name == target) == (value == option.default), "defaults are not in the name"
            assert re.fullmatch("[a-z0-9-]+", recipe.slug)


def test_options_come_in_the_tables_order_whatever_the_users() -> None:
    recipe = parse_recipe("tflite-int8:qat=2,ranges=min-max")
    assert recipe.name == "tflite-int8:ranges=min-max,qat=2" and recipe.qat_epochs == 2
    assert parse_recipe("onnx-int8:keep=features.0.0+classifier").keep == ("features.0.0", "classifier")
    assert recipe.keeping(["a.b", "c"]).name == "tflite-int8:ranges=min-max,keep=a.b+c,qat=2"


def test_fine_tuned_weights_are_rounded_to_the_nearest_step_unless_said() -> None:
    for name, rounding in (("tflite-int8", "compensated"), ("tflite-int8:qat=1", "nearest")):
        assert parse_recipe(name).options["rounding"] == rounding and parse_recipe(name).name == name
    assert parse_recipe("tflite-int8:rounding=nearest,qat=1").name == "tflite-int8:qat=1"
    odd = "tflite-int8:rounding=compensated,qat=1"
    assert parse_recipe(odd).name == odd and parse_recipe(odd).options["rounding"] == "compensated"


def test_slugs_are_short_and_one_recipes_own() -> None:
    assert (
        parse_recipe("tflite-int8:rounding=nearest,keep=classifier").slug
        == "tflite-int8-rounding-nearest-keep-classifier"
    )
    names = [
        f"tflite-int8:keep={layers}" for layers in ("a.b", "a+b", "a/b", "a_b", "A+b", "+".join(["features.9"] * 99))
    ]
    recipes = [parse_recipe(name) for name in names]
    assert len({recipe.slug for recipe in recipes}) == len(names)
    for recipe in recipes:
        assert re.fullmatch("[a-z0-9-]+", recipe.slug) and len(recipe.slug) <= LONGEST_SLUG
        assert len(recipe.line) <= LONGEST_LINE and (recipe.line == recipe.name or len(recipe.name) > LONGEST_LINE)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("int8", "no such target: got 'int8', expected .*python -m export targets"),
        ("", "no such target"),
        ("tflite-int8:", "wrong option: got ''"),
        ("tflite-int8:speed=9", "wrong option: got 'speed=9', expected converter=... or"),
        ("onnx-fp32:qat=2", "wrong option: got 'qat=2', expected no options"),
        ("tflite-int8:qat=2,qat=3", "wrong option: got twice qat"),
        ("tflite-int8:rounding=up", "rounding: got 'up', expected compensated or nearest"),
        ("tflite-int8:qat=0", "qat: got '0', expected such as 2"),
        ("tflite-int8:keep=../x y", "keep: got"),
        ("onnx-int8:keep=classifier,qat=2", "qat goes without keep"),
        ("onnx-int8-trt:rounding=compensated,qat=2", "qat goes without rounding"),
    ],
)
def test_wrong_names_are_refused(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_recipe(name)


def test_every_target_names_an_engine_that_runs_its_files() -> None:
    for target in TARGETS.values():
        assert target.models == MODEL_FILES[ENGINES[target.engine].model_name]
        assert set(target.options) <= set(OPTIONS)
    assert {option for target in TARGETS.values() for option in target.options} == set(OPTIONS), "no option without use"
