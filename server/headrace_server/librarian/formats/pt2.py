"""Pt2: programs of torch.export. Of what such an archive says, torch evaluates some as Python.

So each text in it is one that torch.export writes itself: names, operators on tensors, and sizes as
formulas. Whether its weights are tensors is asked of MLflow, where torch is: in the worker.
"""

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..mlmodel import Description
from .common import Refused, check_entry, check_keys, members, named, read_table, words

_ENTRY: Final = ("pytorch_version", "model_data", "code", "requirements_file", "extra_files")
# Below the archive's one folder.
_MEMBERS: Final = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|version|models/model\.json"
    r"|data/(weights/(weight_\d+|model_weights_config\.json)"
    r"|constants/(tensor_\d+|model_constants_config\.json)|sample_inputs/model\.pt)"
    r"|\.data/(serialization_id|version))"
)
_PROGRAM: Final = "/models/model.json"
_PAYLOADS: Final = "_config.json"

# Names of values, parameters and inputs become names in code that torch writes.
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*|")
_OPERATOR: Final = re.compile(r"torch\.ops\.(aten|higher_order)\.([a-z_]\w*)(\.\w+)?", re.ASCII)
# Of the operators on tensors those that open files, print, or hold objects of C++.
_ATEN_REFUSED: Final = re.compile(r"from_file|save|load|_?print|warn|quantized_(lstm|gru)|_test_.*")
_HIGHER_ORDER: Final = frozenset(
    {
        *("cond", "while_loop", "map_impl", "scan", "associative_scan"),
        *("wrap_with_set_grad_enabled", "wrap_with_autocast"),
    }
)
# Of Python's own functions and torch's those on sizes.
_ON_SIZES: Final = frozenset(
    {
        *(
            f"_operator.{name}"
            for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "neg")
        ),
        *(
            f"_operator.{name}"
            for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "pow")
        ),
        *("_operator.pos", "_operator.getitem", "math.trunc", "math.floor", "math.ceil"),
        *(f"torch.sym_{name}" for name in ("int", "float", "not", "max", "min", "ite", "sum")),
        "torch._sym_sqrt",
    }
)
# What is told of where a node came from; torch shows it.
_METADATA: Final = frozenset(
    {"stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node", "custom"}
)
# Of all tables but those whose keys are names of the program's own.
_KEYS: Final = words(
    """
    arg arg_names as_bool as_bools as_complex as_device as_expr as_float as_float_lists
    as_floats as_graph as_int as_int_lists as_ints as_layout as_memory_format as_name
    as_nested_tensors as_none as_operator as_optional_tensor as_optional_tensors
    as_scalar_type as_string as_strings as_string_to_argument as_sym_bool as_sym_bools
    as_sym_float as_sym_floats as_sym_int as_sym_ints as_tensor as_tensors buffer
    buffer_mutation buffer_name config constant_input custom_obj_values device dtype
    expr_str forward_arg_names fqn gradient_to_parameter gradient_to_user_input graph
    graph_module guards_code hint imag in_spec index input_specs inputs
    is_hop_single_tensor_return is_param is_single_tensor_return kind layout loss_output
    major max_val metadata min_val minor module_call_graph name nodes opset_version out_spec
    output_specs outputs parameter parameter_mutation parameter_name path_name persistent
    range_constraints real requires_grad schema_version signature sizes storage_offset
    strides sym_bool_values sym_float_values sym_int_values target tensor_constant
    tensor_constant_name tensor_meta tensor_values torch_version treespec_namedtuple_fields
    type use_pickle user_input user_input_mutation user_input_name user_output value
    verifiers
    """
)
_KEYED_BY_NAMES: Final = frozenset(
    {
        *("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "config"),
        *("range_constraints", "opset_version", "as_string_to_argument"),
    }
)
# Objects of other classes than tensors.
_EMPTY: Final = frozenset({"custom_obj_values", "treespec_namedtuple_fields"})
# Handed to operators as they are.
_GIVEN: Final = frozenset({"as_string", "as_strings"})

_FORMULA_CHARS_MAX: Final = 20_000
_EXPONENT_MAX: Final = 64
_SYMBOL: Final = re.compile(r"[a-z]{1,3}\d+", re.ASCII)
_DECIMAL: Final = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?", re.ASCII)
_FUNCTIONS: Final = words(
    """
    Abs Add And CeilDiv CeilToInt CleanDiv Eq FloatPow FloatTrueDiv FloorDiv FloorToInt
    Float Ge Gt Identity IntTrueDiv Integer IsNonOverlappingAndDenseIndicator Le Lt Max Min
    Mod ModularIndexing Mul Ne Not Or Pow PowByNatural PythonMod Rational RoundDecimal
    RoundToInt Symbol ToFloat TruncToFloat TruncToInt Unequality Equality StrictLessThan
    StrictGreaterThan LessThan GreaterThan Where ceiling floor max min sqrt
    """
)
_POWERS: Final = frozenset({"Pow", "PowByNatural", "FloatPow"})
_ASSUMED: Final = frozenset({"positive", "nonnegative", "integer", "real", "nonzero", "precision"})
_ARITHMETIC: Final = (
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr),
)
# What a guard asks of an input.
_ASKED: Final = frozenset({"size", "stride", "storage_offset", "dim", "shape"})
_STRUCTURES: Final = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def check_pytorch(model: Description, directory: Path) -> None:
    """Refuse what is pickled or TorchScript, and programs that say more than they compute."""
    check_entry(model.config, _ENTRY)
    data = named(model.config, "model_data", directory)
    file = data / "model.pt2"
    if not file.is_file() or (data / "model.pth").exists():
        raise Refused("its pytorch model is pickled or TorchScript, not exported as pt2")
    has_program = False
    for archive, info in members(file, repr(file.name)):
        name = info.filename
        if not _MEMBERS.fullmatch(name):
            raise Refused(f"its pt2 archive holds {name!r}, which is not known to be inert")
        if name.endswith((_PROGRAM, _PAYLOADS)):
            has_program |= name.endswith(_PROGRAM)
            _check_table(read_table(archive.read(info), name), name)
    if not has_program:
        raise Refused("its pt2 archive holds no program, or one of torch before 2.8")


def _check_table(table: Mapping[str, Any], where: str) -> None:
    for key, value in table.items():
        if key in _EMPTY and value:
            raise Refused(f"{key!r} in {where!r} names classes of its own")
        match key:
            case "target" | "as_operator":
                _check_operator(value, where)
            case "expr_str":
                _check_formula(value, where, is_guard=False)
            case "guards_code":
                for guard in _texts(value, where):
                    _check_formula(guard, where, is_guard=True)
            case "metadata":
                check_keys(_table(value, where), _METADATA, repr(where))
            case "in_spec" | "out_spec":
                _check_structure(value, where)
            case "torch_version" | "verifiers":
                pass
            case "use_pickle":
                if value not in (False, None):
                    raise Refused(f"{key!r} in {where!r} is {value!r}")
            case _ if key in _GIVEN:
                _texts([value] if isinstance(value, str) else value, where)
            case _ if key in _KEYED_BY_NAMES:
                for name, item in _table(value, where).items():
                    _check_value(name, where)
                    _check_value(item, where)
            case _:
                if key not in _KEYS:
                    raise Refused(f"{key!r} in {where!r} is not known to be inert")
                _check_value(value, where)


def _check_value(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        _check_table(value, where)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, where)
    elif isinstance(value, str) and not _NAME.fullmatch(value):
        raise Refused(f"{value[:100]!r} in {where!r} is not known to be inert")


def _check_operator(target: Any, where: str) -> None:
    if target in _ON_SIZES:
        return
    known = _OPERATOR.fullmatch(target) if isinstance(target, str) else None
    if known is not None:
        if known[1] == "aten" and not _ATEN_REFUSED.fullmatch(known[2]):
            return
        if known[1] == "higher_order" and known[2] in _HIGHER_ORDER and not known[3]:
            return
    raise Refused(f"the operator {target!r} in {where!r} is not known to be inert")


def _check_formula(formula: Any, where: str, *, is_guard: bool) -> None:
    """Hold what torch evaluates as Python against what it writes itself: sizes and comparisons."""
    is_known = isinstance(formula, str) and len(formula) <= _FORMULA_CHARS_MAX
    try:
        if is_known:
            tree = ast.parse(formula, mode="eval").body
            is_known = "\n" not in formula and (_is_guard if is_guard else _is_formula)(tree)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        is_known = False
    if not is_known:
        raise Refused(f"the formula {str(formula)[:100]!r} in {where!r} is not known to be inert")


def _is_formula(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=bool() | int() | float()):
            return True
        case ast.Constant(value=str(text)):
            return bool(_SYMBOL.fullmatch(text) or _DECIMAL.fullmatch(text))
        case ast.Name(id=name):
            return name in ("True", "False") or bool(_SYMBOL.fullmatch(name))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return (
                name in _FUNCTIONS
                and all(map(_is_formula, args))
                and (name not in _POWERS or (len(args) == 2 and _is_small(args[1])))
                and all(one.arg in _ASSUMED and _is_formula(one.value) for one in keywords)
            )
    return _is_compound(node, _is_formula)


def _is_guard(node: ast.AST) -> bool:
    """As a formula, of what is asked of the inputs `L[...]`."""
    match node:
        case ast.Constant(value=bool() | int() | float()):
            return True
        case ast.Call(func=ast.Attribute(value=inner, attr=name), args=[], keywords=[]):
            return name in _ASKED and _is_input(inner)
        case ast.Subscript(value=inner, slice=ast.Constant(value=int())):
            return isinstance(inner, ast.Call | ast.Attribute) and _is_guard(inner)
        case ast.Attribute(value=inner, attr="shape"):
            return _is_input(inner)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return (
                name in _FUNCTIONS - {"Symbol"}
                and all(map(_is_guard, args))
                and (name not in _POWERS or (len(args) == 2 and _is_small(args[1])))
            )
        case ast.Subscript():
            return _is_input(node)
    return _is_compound(node, _is_guard)


def _is_input(node: ast.AST) -> bool:
    while isinstance(node, ast.Subscript):
        match node.slice:
            case ast.Constant(value=int()):
                pass
            case ast.Constant(value=str(name)) if _NAME.fullmatch(name):
                pass
            case _:
                return False
        node = node.value
    return isinstance(node, ast.Name) and node.id == "L"


def _is_compound(node: ast.AST, is_known: Any) -> bool:
    match node:
        case ast.BinOp(op=ast.Pow(), left=left, right=right):
            return is_known(left) and _is_small(right)
        case ast.BinOp(left=left, op=op, right=right):
            return isinstance(op, _ARITHMETIC) and is_known(left) and is_known(right)
        case ast.UnaryOp(operand=operand):
            return bool(is_known(operand))
        case ast.BoolOp(values=values):
            return all(map(is_known, values))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            is_order = not any(
                isinstance(op, ast.In | ast.NotIn | ast.Is | ast.IsNot) for op in ops
            )
            return is_order and all(map(is_known, [left, *comparators]))
    return False


def _is_small(node: ast.AST) -> bool:
    """Whether *node* is an exponent with which numbers stay within reason."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return abs(value) <= _EXPONENT_MAX
        case ast.Call(func=ast.Name(id="Integer"), args=[inner]):
            return _is_small(inner)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _is_small(inner)
    return False


def _check_structure(spec: Any, where: str) -> None:
    """A structure of inputs or outputs holds tuples, lists and dicts: no class that is imported."""
    try:
        version, tree = json.loads(spec)
        is_known = version == 1 and _is_structure(tree)
    except (ValueError, TypeError, KeyError, RecursionError):
        is_known = False
    if not is_known:
        raise Refused(f"the structure {str(spec)[:100]!r} in {where!r} is not known to be inert")


def _is_structure(tree: Mapping[str, Any]) -> bool:
    kind, context = tree["type"], tree["context"]
    keys = json.loads(context) if isinstance(context, str) else None
    return (
        set(tree) == {"type", "context", "children_spec"}
        and kind in _STRUCTURES
        and (keys is None or (kind == "builtins.dict" and isinstance(keys, list)))
        and all(map(_is_key, keys or ()))
        and all(map(_is_structure, tree["children_spec"]))
    )


def _is_key(key: Any) -> bool:
    return isinstance(key, int) or (isinstance(key, str) and bool(_NAME.fullmatch(key)))


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Refused(f"{where!r} holds something else than texts where these are expected")
    return value


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Refused(f"{where!r} holds something else than a table where one is expected")
    return value
