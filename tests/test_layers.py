"""Rooms import only downwards (import-linter holds that); own imports stand at the top, and a config needs no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes")


def modules(root):
    return sorted((root / "simpletuner").rglob("*.py"))


def named(node: ast.AST) -> Iterator[str]:
    """The modules that an import statement may mean, the likeliest first: `from a import b` means a.b, or a."""
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield from (f"{node.module}.{one.name}" for one in node.names)
        yield str(node.module)


def late(path: Path, root: Path) -> Iterator[str]:
    """The own modules that functions of a file import."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                yield from [name for name in named(node) if source(name, root) is not None][:1]


def source(module: str, root: Path) -> Path | None:
    """The file of one of our modules; none for whatever else a name may be."""
    place = root.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def is_heavy(module: str, root: Path) -> bool:
    """Whether a module needs a heavy library as soon as it is imported, for classes that it defines."""
    path = source(module, root)
    assert path is not None
    tops = ast.parse(path.read_text()).body
    return any(name.split(".")[0] in HEAVY for node in tops for name in named(node))


def test_own_imports_stand_at_the_top_unless_they_bring_a_heavy_library(root):
    # A torch module or optimizer cannot be defined without torch, and naming it in a config must not need torch.
    found = [f"{path.relative_to(root)}: {name}" for path in modules(root) for name in late(path, root)]
    assert [line for line in found if not is_heavy(line.partition(": ")[2], root)] == []
    assert "simpletuner/models/adapters/lora.py: simpletuner.models.adapters.projections" in found


@pytest.mark.parametrize(
    "module", ["simpletuner.config", "simpletuner.run", "simpletuner.data.dataset", "simpletuner.docs"]
)
def test_a_config_and_the_data_need_no_heavy_library(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_module_opens_by_saying_what_it_is_for(root):
    assert [path.name for path in modules(root) if not ast.get_docstring(ast.parse(path.read_text()))] == []
