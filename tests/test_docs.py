"""The reference: everything public says what it is, and the pages hold it."""

import importlib
import inspect
import re
import types
import warnings

import reference


def test_every_public_name_says_what_it_is():
    names = reference.module_names()
    silent = []
    assert {"sae_gap", "sae_gap.solvers.coding", "sae_gap.measure.plan"} <= {*names}
    told = (types.FunctionType, property, classmethod, staticmethod)
    for name in names:
        module = importlib.import_module(name)
        found = [module]
        public = [value for key, value in vars(module).items() if key[0] != "_"]
        for value in public:
            if (
                isinstance(value, type | types.FunctionType)
                and value.__module__ == name
            ):
                found.append(value)
            if value is found[-1] and isinstance(value, type):
                own = [
                    key for key, each in vars(value).items() if isinstance(each, told)
                ]
                found += [getattr(value, key) for key in own if key[0] != "_"]
        for value in found:
            own = getattr(value, "__name__", "") or value.fget.__name__
            text = value.__doc__ if isinstance(value, type) else inspect.getdoc(value)
            # A method has the text of a base; a dataclass without any writes its fields.
            if own[0] not in "_<" and (text or f"{own}(").startswith(f"{own}("):
                silent.append(f"{name}: {own}")
    assert silent == []


def test_a_page_has_arguments_types_and_mathematics_and_needs_no_network(
    tmp_path, monkeypatch
):
    for module in map(importlib.import_module, reference.module_names()):
        if hasattr(module, "__all__"):
            monkeypatch.setattr(module, "__all__", module.__all__)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference.build(tmp_path, "sae_gap", "!sae_gap.(?!core|solvers|torch)")
    page, face = (
        (tmp_path / f"{name}.html").read_text()
        for name in ("sae_gap/solvers/coding", "sae_gap")
    )
    for section in ("Arguments:", "Returns:", "Raises:"):
        assert f">{section}</h6>" in page
    assert re.search(r"<strong>lam:</strong>\s+\w+", page)
    assert "field number" not in page + face and "new instance of" not in page + face
    assert 'src="http' not in page + face and "<em>" not in page + face
    assert re.search("½ ?‖y", face) and 'id="sparse_code"' in face
    assert 'href="sae_gap/core.html"' in face and ">How to choose</h2>" in face
    first = [
        face.index(f'id="{name}"') for name in ("learn", "check", "load_sae", "Model")
    ]
    assert first == sorted(first)
    assert 'id="SAE.pursuit"' in (tmp_path / "sae_gap/torch/module.html").read_text()
