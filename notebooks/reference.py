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
HIDDEN = ("sae_gap.torch.saelens", "sae_gap.__main__")
# A newcomer's first names stand first on the first page.
FIRST = ("learn", "check", "load_sae", "measure")


def module_names() -> list[str]:
    """Every module of the library, less what is run and what imports SAELens."""
    import sae_gap

    found = [
        module.name for module in pkgutil.walk_packages(sae_gap.__path__, "sae_gap.")
    ]
    return ["sae_gap", *(name for name in found if name not in HIDDEN)]


def how_to_choose() -> str:
    """The section of the library's guide that helps to choose."""
    text = (ROOT / "sae_gap" / "README.md").read_text(encoding="utf-8")
    return (
        "\n## How to choose\n" + text.split("\n## How to choose\n")[1].split("\n## ")[0]
    )


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
            inner = [
                other.split(".")[-1]
                for other in names
                if other.rpartition(".")[0] == name
            ]
            module.__all__ = sorted(
                [*module.__all__, *inner], key=lambda key: key not in FIRST
            )
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, tuple)
                and hasattr(value, "_fields")
            ):
                # What a named tuple says of itself.
                for key in ("__new__", *value._fields):
                    getattr(value, key).__doc__ = ""
    templates = ROOT / "notebooks" / "templates"
    face = importlib.import_module("sae_gap")
    face.__doc__ = f"{face.__doc__}\n{how_to_choose()}"
    pdoc.render.configure(
        docformat="google", show_source=False, template_directory=templates
    )
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
