"""Builds the reference of the library, a page a module, from its docstrings.

pdoc does it: it reads the docstrings' Google sections and Markdown as they are, imports the library
instead of guessing at it, and asks for no configuration. The mathematics of the docstrings is
Unicode, which a page shows without network or script.

  python notebooks/reference.py build/docs
"""

import importlib
import pkgutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def module_names() -> list[str]:
    """Every module of the library, less those of PyTorch, which import it, and what is run."""
    import sae_gap

    found = [module.name for module in pkgutil.walk_packages(sae_gap.__path__, "sae_gap.")]
    hidden = ("sae_gap.torch", "sae_gap.__main__")
    return ["sae_gap", *(name for name in found if not name.startswith(hidden))]


def build(folder: Path, *specs: str) -> None:
    """Writes the pages.

    Args:
      folder: where they go.
      specs: what to show, as pdoc takes it.
    """
    import pdoc.render

    names = module_names()
    for name in names:
        module = importlib.import_module(name)
        if hasattr(module, "__all__"):
            # pdoc shows what a public face lists and has, and some load it when it is asked for.
            vars(module).update({key: getattr(module, key) for key in module.__all__})
            inner = [other.split(".")[-1] for other in names if other.rpartition(".")[0] == name]
            module.__all__ = [*module.__all__, *inner]
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
                # What a named tuple says of itself.
                for key in ("__new__", *value._fields):
                    getattr(value, key).__doc__ = ""
    templates = ROOT / "notebooks" / "templates"
    pdoc.render.configure(docformat="google", show_source=False, template_directory=templates)
    pdoc.pdoc(*specs, output_directory=folder)


def main() -> None:
    import jax.typing

    # Shown by the names that the source has for them: one is a union of eight types.
    jax.typing.ArrayLike = type("ArrayLike", (), {"__module__": "builtins"})  # type: ignore[misc]
    jax.Array.__name__ = jax.Array.__qualname__ = "Array"
    sys.path.insert(0, str(ROOT))
    folder = Path(sys.argv[1])
    build(folder, "sae_gap")
    sys.stdout.write(f"{folder / 'index.html'}\n")


if __name__ == "__main__":
    main()
