"""Rooms import only downwards (import-linter holds that); own imports stand at the top, and a config needs no torch."""

import ast
import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes")


def modules(root):
    return sorted((root / "simpletuner").rglob("*.py"))


def test_own_imports_stand_at_the_top(root):
    found = []
    for path in modules(root):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                late = [node for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
                found += [f"{path.name}: {one.module}" for one in late if (one.module or "").startswith("simpletuner")]
    # A torch optimizer cannot be defined without torch, and naming optimizers must not need torch.
    assert found == ["optimizers.py: simpletuner.training.adamw_bf16"]


@pytest.mark.parametrize(
    "module", ["simpletuner.config", "simpletuner.run", "simpletuner.data.dataset", "simpletuner.docs"]
)
def test_a_config_and_the_data_need_no_heavy_library(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_module_opens_by_saying_what_it_is_for(root):
    assert [path.name for path in modules(root) if not ast.get_docstring(ast.parse(path.read_text()))] == []
