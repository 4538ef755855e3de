"""The small edits that `tests/mutants.py` tries on a file's source.

Only what is run is changed: no docstring, annotation, message, decorator, or argument
that checks nothing but ourselves (`strict=` of `zip`).
"""

import ast
import warnings
from collections.abc import Iterator
from typing import NamedTuple


class Mutation(NamedTuple):
    """One edit of a source: the text between two offsets and what stands there instead.

    Attributes:
        start: Offset in characters.
        end: Where the replaced text ends.
        text: The new text.
        line: Of the source, from 1.
    """

    start: int
    end: int
    text: str
    line: int

    def apply(self, source: str) -> str:
        """The source with this edit."""
        return source[: self.start] + self.text + source[self.end :]

    def __str__(self) -> str:
        return f"line {self.line}: {self.text!r}"


SWAPPED = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
# removed with what they hold: `stop_gradient(x)` becomes `x`
WRAPPERS = {
    *("stop_gradient", "mark_to_store", "prevent_cpu_fusion", "make_varying"),
    *("strongly_typed", "cast_like"),
}
FUNCTION = ast.FunctionDef | ast.If | ast.For | ast.While | ast.With | ast.Try
SILENT = ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom
# of no effect when all is well
IDLE = {"strict", "prevent_cse", "help", "stacklevel"}


def mutations(source: str) -> list[Mutation]:
    """Every edit of these kinds, in the order of the source."""
    offsets = [0]
    for line in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line.encode()))
    encoded = source.encode()

    def place(line: int, column: int) -> int:
        return len(encoded[: offsets[line - 1] + column].decode())

    def span(node) -> tuple[int, int]:
        start = place(node.lineno, node.col_offset)
        return start, place(node.end_lineno, node.end_col_offset)

    found = set()
    for node in _run(ast.parse(source)):
        for start, end, text in _edits(node, source, span):
            line = source[:start].count("\n") + 1
            found.add(Mutation(start, end, text, line))
    return sorted(edit for edit in found if _compiles(edit.apply(source)))


def _compiles(source: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that do something when a program runs as it should."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, SILENT):
                continue
            if isinstance(child, ast.Assign) and not isinstance(node, FUNCTION):
                continue  # names of types, messages
            if isinstance(child, ast.keyword) and child.arg in IDLE:
                continue
            yield child
            yield from _run(child)


def _edits(node, source, span) -> Iterator[tuple[int, int, str]]:
    text = lambda part: source[slice(*span(part))]
    match node:
        case ast.BinOp(left=ast.Name(), op=ast.BitOr(), right=ast.Name()):
            return  # of types
        case ast.BinOp(left=left, op=op, right=right):
            yield from _swap(op, span(left)[1], span(right)[0], source)
        case ast.BoolOp(op=op, values=values):
            yield from _swap(op, span(values[0])[1], span(values[1])[0], source)
        case ast.Compare(left=left, ops=[op, *_], comparators=[right, *_]):
            yield from _swap(op, span(left)[1], span(right)[0], source)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield *span(node), f"({text(operand)})"
        case ast.Constant(value=bool() as value):
            yield *span(node), str(not value)
        case ast.Constant(value=int() | float() as value):
            yield *span(node), repr(value + 1)
        case ast.IfExp(body=body, orelse=other):
            yield *span(body), text(other)
            yield *span(other), text(body)
        case ast.If(test=test) | ast.While(test=test):
            yield *span(test), f"not ({text(test)})"
            if isinstance(node, ast.If):
                yield *span(test), "False"
        case ast.Slice(lower=lower, upper=upper) if (lower is None) != (upper is None):
            bound = text(lower or upper)
            yield *span(node), f":{bound}" if lower else f"{bound}:"
        case ast.FunctionDef(body=[_, *_, ast.Return(value=ast.AST() as value)]):
            end = node.body[-1]
            first = node.body[ast.get_docstring(node) is not None]
            # early return, of what is there by then
            if first is not end and not _names(node.body[:-1], ast.Store) & _names(
                [value], ast.Load
            ):
                yield (
                    span(first)[0],
                    span(first)[0],
                    f"return {text(value)}\n" + (" " * first.col_offset),
                )
        case ast.Expr(value=ast.Call()):
            yield *span(node), "pass"
        case ast.Call(args=args, keywords=keywords):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in WRAPPERS and args:
                yield *span(node), text(args[0])
            inside = [*args, *keywords]
            for keyword in keywords:
                if keyword.arg and keyword.arg not in IDLE:
                    yield *_with_comma(keyword, inside, span), ""


def _names(nodes, context: type) -> set[str]:
    inside = (part for node in nodes for part in ast.walk(node))
    names = [part for part in inside if isinstance(part, ast.Name)]
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return functions | {name.id for name in names if isinstance(name.ctx, context)}


def _swap(op, start, end, source):
    if type(op) in SWAPPED:
        old, new = SWAPPED[type(op)]
        between = source[start:end]
        if between.count(old) == 1:
            yield start, end, between.replace(old, new)


def _with_comma(part, parts, span) -> tuple[int, int]:
    """A part of a list, with the comma beside it."""
    index = parts.index(part)
    start, end = span(part)
    if index:
        return span(parts[index - 1])[1], end
    return start, span(parts[1])[0] if len(parts) > 1 else end
