"""Builds the reference of the library, a page a module, from its docstrings, and checks every link
of what it built.

pdoc does it: it reads the docstrings' Google sections and Markdown as they are, imports the library
instead of guessing at it, and asks for no configuration. The mathematics of the docstrings is
Unicode, which a page shows without network or script.

  python notebooks/reference.py build/docs
"""

import argparse
import ast
import html.parser
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
import types
import typing
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import numpy

ROOT = Path(__file__).parents[1]


def module_names() -> list[str]:
    """Every module of the library that has no underscore in front, less those of PyTorch, which
    import it.
    """
    import sae_gap

    found = [
        module.name
        for module in pkgutil.walk_packages(sae_gap.__path__, "sae_gap.")
        if not module.name.startswith("sae_gap.torch")
    ]
    return [
        "sae_gap",
        *(name for name in found if not any(part.startswith("_") for part in name.split("."))),
    ]


def comments(source: str) -> dict[str, str]:
    """What is said of each constant of a module: the string below it, or the comment above it or
    above its run.
    """
    lines, found = source.splitlines(), {}
    body = ast.parse(source).body
    last, said = 0, ""
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        first = node.lineno - 1
        while first and lines[first - 1].startswith("# "):
            first -= 1
        if (
            isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            text = inspect.cleandoc(after.value.value)
        elif first < node.lineno - 1:
            text = "\n".join(line[2:] for line in lines[first : node.lineno - 1])
        else:
            text = said if first == last else ""
        last, said = node.end_lineno or 0, text
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        found |= {
            name.id: text
            for target in targets
            for name in ast.walk(target)
            if isinstance(name, ast.Name)
        }
    return found


def undocumented(name: str) -> list[str]:
    """The public names of a module, and the public members of its classes, that nothing is said
    about.
    """
    module = importlib.import_module(name)
    above, public = comments(inspect.getsource(module)), getattr(module, "__all__", None)
    faults = [] if module.__doc__ else [name]
    for key in dict.fromkeys([*vars(module), *(public or ())]):
        value = getattr(module, key)
        # What a register finds in a module is what the module's own text is about.
        found = key in ("METRIC", name.rpartition(".")[2].upper(), "__version__")
        if found or (key.startswith("_") if public is None else key not in public):
            continue
        home = getattr(value, "__module__", name)
        if inspect.isclass(value) or inspect.isfunction(value):
            if home == name or (public is not None and home.startswith("sae_gap")):
                faults += [f"{name}.{key}{member}" for member in _silent(value)]
        elif key in above and not above[key] and not isinstance(value, typing.TypeVar):
            faults.append(f"{name}.{key}")
    return faults


def _silent(value: typing.Any) -> list[str]:
    """An object itself, and the public members that its class defines, where neither they nor a
    base have a docstring.
    """
    # A dataclass or a named tuple that has none writes one of its fields.
    text = value.__doc__ or ""
    members = {
        key: member
        for key, member in vars(value).items()
        if inspect.isclass(value) and not key.startswith("_")
    }
    told = (types.FunctionType, property, classmethod, staticmethod)
    silent = [
        key
        for key, member in members.items()
        if isinstance(member, told) and not inspect.getdoc(getattr(value, key))
    ]
    return [""] * (not text or text.startswith(f"{value.__name__}(")) + [
        f".{key}" for key in silent
    ]


class _Spelled:
    """An annotation as it is written in the source."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


# Where JAX and others define what the source imports from their front doors.
_INNER = re.compile(
    r"\b(jaxtyping|jaxlib\._jax|jax|typing|collections\.abc|numpy|equinox\._module\._module)\.(?=[A-Z]|ndarray)"
)


def spell(annotation: typing.Any) -> typing.Any:
    """An annotation by the names that the source has for it, such as `ArrayLike` for all that JAX
    takes for an array.
    """
    import jax
    from jax.typing import ArrayLike

    if annotation in (inspect.Parameter.empty, None, type(None)):
        return annotation
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return _Spelled(_INNER.sub("", inspect.formatannotation(annotation)))
    parts = typing.get_args(annotation)
    shaped = [part for part in parts if hasattr(part, "dim_str")]
    words = []
    if {*typing.get_args(ArrayLike)} <= {*parts}:
        words = ["ArrayLike"]
    elif {jax.Array, numpy.ndarray} <= {part.array_type for part in shaped}:
        words = [
            f"{part.__name__.partition('[')[0]}[ArrayLike, {part.dim_str!r}]" for part in shaped
        ]
    else:
        words = [
            _INNER.sub("", inspect.formatannotation(part))
            for part in parts
            if part is not type(None)
        ]
    return _Spelled(" | ".join(dict.fromkeys(words + ["None"] * (type(None) in parts))))


def build(folder: Path, names: typing.Sequence[str] | None = None) -> None:
    """Writes the pages.

    Args:
      folder: where they go.
      names: modules to show; None takes all.
    """
    import pdoc.doc
    import pdoc.render

    import sae_gap

    # The public face loads its names when they are asked for, and pdoc asks for what is there.
    vars(sae_gap).update({name: getattr(sae_gap, name) for name in sae_gap.__all__})
    names = module_names() if names is None else names
    pages = {name: pdoc.doc.Module(importlib.import_module(name)) for name in names}
    for name, page in pages.items():
        above = comments(inspect.getsource(page.obj))
        page.submodules = [pages[other] for other in names if other.rpartition(".")[0] == name]
        page.docstring += _contents(page.submodules)
        for member in page.flattened_own_members:
            for each in (
                member,
                *(member.members.values() if isinstance(member, pdoc.doc.Class) else ()),
            ):
                _mend(each, above)
    pdoc.render.configure(
        docformat="google",
        show_source=False,
        template_directory=Path(__file__).parent / "templates",
    )
    for name, page in pages.items():
        file = folder / f"{name.replace('.', '/')}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(pdoc.render.html_module(page, pages), encoding="utf-8")
    (folder / "index.html").write_text(pdoc.render.html_index(pages), encoding="utf-8")
    (folder / "search.js").write_text(pdoc.render.search_index(pages), encoding="utf-8")
    unlink_hidden(folder)


def _contents(submodules: typing.Sequence[typing.Any]) -> str:
    lines = [f"- `{page.fullname}`: {page.docstring.partition(chr(10))[0]}" for page in submodules]
    return "\n\n**Modules**\n\n" + "\n".join(lines) if lines else ""


def _mend(member: typing.Any, above: dict[str, str]) -> None:
    """What pdoc cannot know of a member: a comment above a constant, and how its types are
    written.
    """
    if member.kind == "function":
        member.signature = member.signature.replace(
            parameters=[
                each.replace(annotation=spell(each.annotation))
                for each in member.signature.parameters.values()
            ],
            return_annotation=spell(member.signature.return_annotation),
        )
    elif member.kind == "class":
        member.bases = [(module, name, _INNER.sub("", text)) for module, name, text in member.bases]
    if member.docstring.startswith(("Alias for field number ", "Create new instance of ")):
        # What a named tuple says of itself.
        member.docstring = ""
    if member.kind == "variable" and member.annotation_str:
        member.annotation_str = f": {spell(member.annotation)!r}"
    if member.kind == "variable" and not member.docstring:
        # The text of a class says what its fields are.
        member.docstring = "@private" if "." in member.qualname else above.get(member.qualname, "")


class _Links(html.parser.HTMLParser):
    """What a page points at, and what can be pointed at in it."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given[name] or "" for name in ("id", "name") if name in given}
        self.targets += [given[name] or "" for name in ("href", "src") if name in given]


def _dead_links(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each page with a link to a page, a file or an anchor that is not there, and the link."""
    read = {path.resolve(): _Links() for path in sorted(folder.rglob("*.html"))}
    for path, links in read.items():
        links.feed(path.read_text(encoding="utf-8"))
    for path, links in read.items():
        for target in links.targets:
            parts = urllib.parse.urlsplit(target)
            other = (
                (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            )
            anchored = (
                not parts.fragment or other not in read or parts.fragment in read[other].anchors
            )
            if not parts.scheme and not (other.exists() and anchored):
                yield path, target


def broken(folder: Path) -> list[str]:
    """Each link of the pages to a page, a file or an anchor that is not there."""
    return [
        f"{path.relative_to(folder.resolve())}: {target}" for path, target in _dead_links(folder)
    ]


def unlink_hidden(folder: Path) -> None:
    """Takes away the links that pdoc makes of names in backticks whose members it hides, having no
    text of their own.
    """
    for path, target in [*_dead_links(folder)]:
        if "#" in target:
            text = path.read_text(encoding="utf-8")
            path.write_text(
                re.sub(f'<a href="{re.escape(target)}">(.*?)</a>', r"\1", text), encoding="utf-8"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the pages go")
    folder = parser.parse_args().folder
    sys.path.insert(0, str(ROOT))
    build(folder)
    faults = broken(folder)
    if faults:
        sys.exit(textwrap.indent("\n".join(faults), "  ").join(("links that lead nowhere:\n", "")))
    sys.stdout.write(f"{folder / 'index.html'}\n")


if __name__ == "__main__":
    main()
