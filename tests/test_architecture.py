"""The shape of the code: no code from data, imports point downwards, no circles."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "t2i"
FILES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}

# From the top down; a module imports from its own layer and from those below it. A module of t2i/ that is not named
# here (config, files, errors, ...) belongs to the lowest layer.
LAYERS = (
    "cli", "ui", "grid_kinds", "prompts", "compat", "web", "export", "pipeline", "training", "evaluation", "sampling",
    "losses", "models", "text", "data",
)  # fmt: skip
# A term is written for what a step hands to it: in annotations alone, nothing is imported.
ANNOTATED = {"t2i.losses.base": ["t2i.training.batch", "t2i.training.randomness", "t2i.training.schedule"]}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): tree for path, tree in FILES.items()}
PACKAGES = {module_name(path) for path in FILES if path.name == "__init__.py"}


def layer(module: str) -> int:
    """0 is the top: the package itself, which only names what is public."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return 0
    return LAYERS.index(parts[1]) + 1 if parts[1] in LAYERS else len(LAYERS) + 1


def targets(node: ast.AST, module: str) -> list[str]:
    """The modules of t2i that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module.split(".") if module in PACKAGES else module.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
        names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]
    else:
        return []
    return [name for name in names if name in MODULES]


def at_import_time(tree: ast.Module) -> list[ast.AST]:
    """The statements that run when the module is imported: not those in functions or under TYPE_CHECKING."""
    found: list[ast.AST] = []
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        found.append(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
    return found


def dotted(node: ast.AST) -> str:
    """torch.load of the expression torch.load; empty where it is no plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
BANNED_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "builtins.eval",
}


def dangers(tree: ast.Module) -> list[str]:
    """What could run code that comes with data."""
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [name for name in names if name.split(".")[0] in BANNED_MODULES or name in BANNED_CALLS]
        if isinstance(node, ast.Name | ast.Attribute) and dotted(node) in BANNED_CALLS:
            found += [dotted(node)] if isinstance(node.ctx, ast.Load) else []  # a field may be called eval
        if isinstance(node, ast.Call):
            pickles = [
                k for k in node.keywords if k.arg == "allow_pickle" and getattr(k.value, "value", 1) is not False
            ]
            found += [f"{dotted(node.func)} with allow_pickle"] * len(pickles)
            trusts = [
                k for k in node.keywords if k.arg == "trust_remote_code" and getattr(k.value, "value", 1) is not False
            ]
            found += [f"{dotted(node.func)} with trust_remote_code"] * len(trusts)
    return found


# The one exception: weights of the feature networks come as PyTorch files, of which torch reads tensors and nothing
# else. The bundled file is checked by its hash first; FID's Inception is a file that the user names.
WEIGHTS_ONLY = "t2i.models.features"


@pytest.mark.parametrize("module", MODULES)
def test_no_code_comes_from_data(module):
    assert dangers(MODULES[module]) == (["torch.load"] if module == WEIGHTS_ONLY else [])


def test_the_one_torch_load_reads_weights_only():
    calls = [node for node in ast.walk(MODULES[WEIGHTS_ONLY]) if isinstance(node, ast.Call)]
    (load,) = [call for call in calls if dotted(call.func) == "torch.load"]
    (flag,) = [keyword.value for keyword in load.keywords if keyword.arg == "weights_only"]
    assert isinstance(flag, ast.Constant) and flag.value is True


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from pickle import loads", "import marshal", "import shelve", "eval('1')", "exec(x)",
        "f = eval", "torch.load(p)", "torch.load(p, weights_only=True)", "from torch import load",
        "np.load(p, allow_pickle=True)", "np.load(p, allow_pickle=flag)",
        "AutoModel.from_pretrained(p, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_ban_sees_what_it_bans(text):
    assert dangers(ast.parse(text))


def test_the_ban_lets_the_harmless_through():
    code = "model.eval(); np.load(p, allow_pickle=False); re.compile(x); safetensors.torch.load(b)\neval: A = 3"
    assert dangers(ast.parse(code)) == []


def upward(module: str) -> list[str]:
    """Imports of a module, anywhere in it, that point to a higher layer."""
    found = {name for node in ast.walk(MODULES[module]) for name in targets(node, module)}
    return sorted(name for name in found if layer(name) < layer(module))


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module):
    assert upward(module) == ANNOTATED.get(module, [])


@pytest.mark.parametrize("module", ANNOTATED)
def test_what_is_in_annotations_alone_is_not_imported(module):
    imported = {name for node in at_import_time(MODULES[module]) for name in targets(node, module)}
    assert imported and not imported & set(ANNOTATED[module])


def test_no_module_imports_itself_in_a_circle():
    graph = {
        module: {name for node in at_import_time(tree) for name in targets(node, module) if name != module}
        for module, tree in MODULES.items()
    }
    assert sum(map(len, graph.values())) > 50  # it does see imports
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
