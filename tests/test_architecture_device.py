"""What the host of a GPU must not do where no run without one can see it, by reading the source.

The pretend device (docs/pretend_device.md) sees the waits of what the tests run on it; these rules see the lines that
none of them happens to run, and what a library does not tell. A line that is right all the same stands in a table here
with its reason, and leaves the table when it leaves the code.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

COMPUTES_ON_THE_DEVICE = (
    *("sclds/model", "sclds/losses", "sclds/batch", "sclds/tasks/model.py", "sclds/tasks/loss.py"),
    *("sclds/train/step.py", "kernels/scl_kernels"),
)
"""Folders and files whose tensors lie on the device in a step."""
AROUND_THE_STEP = (
    *(f"sclds/train/{name}.py" for name in ("ahead", "corruption", "data_wait", "distributed", "guard", "loop")),
    *(f"sclds/train/{name}.py" for name in ("measures", "messages", "metrics", "optimizer", "saver", "slow_ranks")),
    *("sclds/machine/phase_clock.py", "sclds/run/goodput.py"),
)
"""Files of which a run does something between any two steps, while the device still computes the first."""
OF_TOOLS = ("registration.py", "threeway.py", "crossover.py", "check.py", "cases.py")
"""Files of `kernels/` that no step runs."""
ON_THE_HOST = dict.fromkeys(
    [f"sclds/batch/{name}.py" for name in ("attention_plan", "packing", "ragged", "sizes", "unpacking", "views")],
    "packs a batch out of the host's arrays before it moves, reads its lengths there, or takes a held-out one apart",
)
WITH_A_REASON = {
    **dict.fromkeys(
        [
            "kernels/scl_kernels/infonce/arguments.py _check_temperature",
            "kernels/scl_kernels/masked_gather/inputs.py check_inputs",
            "kernels/scl_kernels/pairwise/arguments.py _check_local_rows",
            "kernels/scl_kernels/pairwise/arguments.py check_weights",
            "kernels/scl_kernels/sigmoid/arguments.py check_problem",
        ],
        "behind `readable`: on a GPU under SCL_KERNELS_DEBUG=1 alone",
    ),
    "kernels/scl_kernels/validation.py check_cumulative": "lengths, which stay on the host",
    "sclds/losses/communicator.py _Room.of": "books of the gather, NumPy on the host",
    "sclds/losses/communicator.py gather_records": "names of samples, from host to host",
    "sclds/losses/global_features.py StepSizes.__init__": "counts of all ranks, NumPy on the host",
    "sclds/losses/global_features.py first_rows": "counts of all ranks, NumPy on the host",
    "sclds/train/ahead.py Ahead.take": "what ranks told one another, NumPy on the host",
    "sclds/train/corruption.py MemoryCheck.found": "what ranks told one another, every `guards.memory_every` steps",
    "sclds/train/corruption.py Probe._digest": "every `guards.probe_every` steps",
    **dict.fromkeys(
        [f"sclds/train/distributed.py {name}" for name in ("ProcessGroup.any", "ProcessGroup.start_gather_counts")],
        "tensors of the host, from host to host",
    ),
    **dict.fromkeys(
        [f"sclds/train/distributed.py {name}" for name in ("ProcessGroup.wait_at_most", "synchronize")],
        "once a start, and where times are measured",
    ),
    "sclds/train/guard.py _is_finite": "before a checkpoint, in the thread that copies it",
    "sclds/train/loop.py Run._agreed_spike": "what ranks told one another of a logged step",
    "sclds/train/loop.py Run._note_bad_samples": "what ranks told one another, where a checkpoint is written",
    **dict.fromkeys(
        [f"sclds/train/metrics.py MetricsWriter.{name}" for name in ("record", "_levels")], "of a logged step alone"
    ),
    "sclds/train/measures.py StepMeasures.figures": "of a logged step alone, NumPy on the host",
}
"""File and function of every wait that is none, or is meant."""
WAITS = frozenset(
    {
        *("item", "tolist", "cpu", "numpy", "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive"),
        *("equal", "allclose", "is_nonzero", "new_tensor", "synchronize"),
    }
)
"""Methods, and functions of torch, whose result or its shape the host needs at once, or that copy pageable memory."""
NUMPY = "np"
TO_NUMBER = ("bool", "int", "float")
REDUCTIONS = frozenset({"all", "any", "min", "max", "amin", "amax", "sum", "mean", "norm", "detach", "isnan"})
"""Methods of tensors whose value is no longer a tensor when Python asks whether it is true, or for its number."""


def of_attribute(node):
    """Return the method or function that a call names behind a dot, and what stands before it."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr, ast.unparse(node.func.value)
    return "", ""


def reduces(node):
    """Return whether an expression ends in a method whose result is one number of a tensor."""
    name, owner = of_attribute(node)
    return name in REDUCTIONS and owner.partition(".")[0] not in (NUMPY, "math")


def asked(node):
    """Return the expressions that Python itself asks for their truth in a node."""
    if isinstance(node, (ast.If, ast.While, ast.IfExp, ast.Assert)):
        return [node.test]
    if isinstance(node, ast.BoolOp):
        return node.values
    return [node.operand] if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) else []


def is_mask(node, masks):
    """Return whether an expression is a comparison of tensors, or made of such."""
    if isinstance(node, ast.Name):
        return node.id in masks
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
        return is_mask(node.left, masks) or is_mask(node.right, masks)
    return isinstance(node, ast.Compare) and not any(
        isinstance(op, (ast.In, ast.NotIn, ast.Is, ast.IsNot)) for op in node.ops
    )


def masks_of(function):
    """Return the names that a function binds to comparisons."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(node.targets[0].elts, node.value.elts, strict=False))
            found |= {to.id for to, value in pairs if isinstance(to, ast.Name) and is_mask(value, found)}
    return found


def waits_in(function):
    """Return what a function does for which the host of a GPU would wait, as words of its source."""
    masks, found = masks_of(function), []
    for node in ast.walk(function):
        name, owner = of_attribute(node)
        words = {keyword.arg for keyword in getattr(node, "keywords", ())}
        if name in WAITS and owner.partition(".")[0] != NUMPY:
            found.append(f".{name}()")
        elif name == "tensor" and owner == "torch" and "device" in words:
            found.append("torch.tensor(device=)")
        elif name == "repeat_interleave" and "output_size" not in words:
            found.append(".repeat_interleave()")
        elif name == "to" and any(isinstance(a, ast.Constant) and a.value == "cpu" for a in node.args):
            found.append(".to('cpu')")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TO_NUMBER:
            found += [f"{node.func.id}(.{of_attribute(a)[0]}())" for a in node.args if reduces(a)]
        elif isinstance(node, ast.Subscript) and is_mask(node.slice, masks):
            found.append("[mask]")
        found += [f"if .{of_attribute(test)[0]}()" for test in asked(node) if reduces(test)]
    return found


def functions_of(tree):
    """Return functions by name, methods behind their class's; what stands in none is `module`'s."""
    found, rest = {}, []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{n.name}": n for n in node.body if isinstance(n, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = node
        else:
            rest.append(node)
    return found | {"module": ast.Module(rest, [])}


def sources(places):
    """Return the files of folders and files of the repository."""
    found = [ROOT / place for place in places]
    return [p for path in found for p in ([path] if path.suffix else sorted(path.rglob("*.py")))]


def told(places, kind):
    """Return by `file function` what `kind` finds in the functions of sources."""
    found = {}
    for path in sources(places):
        for name, function in functions_of(ast.parse(path.read_text())).items():
            if path.name not in OF_TOOLS and (what := kind(function)):
                found[f"{path.relative_to(ROOT).as_posix()} {name}"] = sorted(set(what))
    return found


def test_nothing_in_a_step_makes_the_host_wait():
    found = told((*COMPUTES_ON_THE_DEVICE, *AROUND_THE_STEP), waits_in)
    unknown = {where: what for where, what in found.items() if where.partition(" ")[0] not in ON_THE_HOST}
    assert {where: what for where, what in unknown.items() if where not in WITH_A_REASON} == {}


def test_the_table_of_waits_is_current():
    found = told((*COMPUTES_ON_THE_DEVICE, *AROUND_THE_STEP), waits_in)
    assert WITH_A_REASON.keys() - found.keys() == set()
    assert ON_THE_HOST.keys() - {where.partition(" ")[0] for where in found} == set()


@pytest.mark.parametrize(
    "line",
    [
        "x.sum().item()",
        "x.tolist()",
        "x.cpu()",
        "x.to('cpu')",
        "x.numpy()",
        "torch.nonzero(x)",
        "torch.equal(x, x)",
        "x.unique()",
        "x.repeat_interleave(n)",
        "torch.tensor([1, 2], device=x.device)",
        "bool((x > 0).any())",
        "float(x.detach())",
        "torch.cuda.synchronize()",
        "x[x > 0]",
        "x[~keep]",
        "x[(x > 0) & keep]",
        "(keep := 0)\n    real = x > 0\n    return x[real]",
        "1 if x.any() else 0",
        "not x.any()",
    ],
)
def test_every_kind_of_wait_is_found(line):
    assert told_of(f"def f(x, n, keep):\n    {line}\n", waits_in)


@pytest.mark.parametrize(
    "line", ["np.unique(x)", "x[x is None]", "x[0]", "x.repeat_interleave(n, output_size=3)", "any(x)", "float(n)"]
)
def test_what_does_not_wait_is_not_found(line):
    assert not told_of(f"def f(x, n):\n    {line}\n", waits_in)


def told_of(text, kind):
    return [what for function in functions_of(ast.parse(text)).values() for what in kind(function)]


BLOCKING = {
    "sclds/train/corruption.py Probe._digest": "a batch's own `to`, every `guards.probe_every` steps",
    "sclds/losses/communicator.py gather_records": "once a run or evaluation, never in a step",
    "sclds/losses/communicator.py on_device": "the other branch is the CPU's",
    "sclds/train/step.py train_step": "a batch's own `to`, which is asynchronous",
}
"""Where a copy to the device may wait, and why."""


def blocking_copies(function):
    """Return copies to a device that wait until they are done: `to` without `non_blocking=True`, and `cuda`."""
    found = []
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        name, _ = of_attribute(node)
        words = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        said = [ast.unparse(argument) for argument in node.args] + list(words.values())
        moves = name == "cuda" or (name == "to" and any("device" in each for each in said))
        if moves and words.get("non_blocking") != "True":
            found.append(ast.unparse(node))
    return found


def test_copies_to_the_device_do_not_wait():
    """One that is pinned and blocks, or is not pinned at all, holds the host up until the device has come so far."""
    found = told((*COMPUTES_ON_THE_DEVICE, *AROUND_THE_STEP), blocking_copies)
    assert {where: what for where, what in found.items() if where not in BLOCKING} == {}
    assert BLOCKING.keys() - found.keys() == set()
    for line in ("x.to(device)", "x.to(y.device, torch.int64)", "x.to(device, non_blocking=False)", "x.cuda()"):
        assert told_of(f"def f(x, y, device):\n    {line}\n", blocking_copies), line
    assert not told_of("def f(x, device):\n    x.to(device, non_blocking=True).to(torch.int64)\n", blocking_copies)


NOT_PINNED = {
    "kernels/scl_kernels/pairwise/launch.py plan": "a table of a few hundred bytes: up to 64 KB, CUDA does not wait "
    "(CUDA C++ Programming Guide, asynchronous concurrent execution)",
    "sclds/benchmarks/published_run.py _moved": "the reference beside which a profile stands",
    "sclds/batch/placed.py Placed.to": "one block, pinned where there is a GPU (`in_one_block`), or fields alone, "
    "which are pinned by whoever packs them",
}
"""Asynchronous copies of memory that is not pinned in the same line, and why they do not wait."""


def copies_not_pinned(function):
    """Return asynchronous copies whose source is not pinned in the same expression."""
    found = []
    for node in ast.walk(function):
        name, owner = of_attribute(node)
        words = {keyword.arg for keyword in getattr(node, "keywords", ())}
        if name == "to" and "non_blocking" in words and not owner.endswith(".pin_memory()"):
            found.append(ast.unparse(node))
    return found


def test_what_is_copied_beside_the_step_is_pinned():
    """CUDA copies pageable memory, asynchronous by name, while the host waits."""
    found = told(("sclds", "kernels/scl_kernels"), copies_not_pinned)
    assert {where: what for where, what in found.items() if where not in NOT_PINNED} == {}
    assert NOT_PINNED.keys() - found.keys() == set()


KNOWS_CUDA = {
    "kernels/scl_kernels/pairwise/tiles.py": "the architecture, which chooses tiles",
    "sclds/benchmarks": "measure",
    "sclds/costs/matmul.py": "measures",
    "sclds/costs/utilization.py": "the name of the card, which decides on its data sheet",
    "sclds/data/media/decode.py": "which device `data.device: mixed` decodes on",
    "sclds/machine": "what there is",
    "sclds/train/copying.py": "the stream on which a checkpoint is copied beside the step",
    "sclds/train/distributed.py": "memory of the process's device",
    "sclds/train/messages.py": "events of the streams on which messages travel",
    "sclds/train/launch.py": "how many processes have one",
}
"""Files and folders that name `torch.cuda` for more than whether there is one; all other code is any device's."""


def cuda_in(function):
    """Return what a function takes of `torch.cuda`, but for the question whether there is a device."""
    dotted = {ast.unparse(node) for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    return [name for name in dotted if name.startswith("torch.cuda.") and name != "torch.cuda.is_available"]


def test_only_listed_files_know_cuda():
    """What a run computes goes through `torch.accelerator` or the tensor's own device, as the pretend device proves."""
    found = {where.partition(" ")[0] for where in told(("sclds", "kernels/scl_kernels"), cuda_in)}
    assert [path for path in sorted(found) if not any(path.startswith(known) for known in KNOWS_CUDA)] == []
    assert [known for known in KNOWS_CUDA if not any(path.startswith(known) for path in found)] == []
    assert told_of("def f():\n    return torch.cuda.current_stream()\n", cuda_in)
