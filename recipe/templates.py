"""Jinja templates that may come from a stranger's file: sandboxed, with a limit on the work of one rendering.

Loops, calls, filters and operators are counted while a template runs. A template that loops for ever, or doubles a
text until memory ends, is refused after the same number of steps on every machine.
"""

import contextlib
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import ImmutableSandboxedEnvironment

from recipe.errors import SreError

# What one rendering may spend; a prompt of 100,000 characters needs a twentieth. It is gone after two seconds at most.
LIMIT = 10_000_000
_STEP, _ITEM = 20, 5  # What one step and one item of a list cost; a character costs 1.
_FORMATTING = {"%", "format", "format_map"}
# Their result can be as long as the product of what they are given.
_MULTIPLYING = {"*", "replace", "join", "center", "ljust", "rjust", "zfill", "expandtabs", "indent", "tojson", "round"}
_MULTIPLYING |= {"batch", "slice", "truncate", *_FORMATTING}
# Methods whose result may be longer than their arguments tell, and those that give bytes, whose methods aren't counted.
_UNSAFE = {"translate", "maketrans", "encode", "to_bytes"}
_REMOVED = ("lipsum", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")


class _Compiler(CodeGenerator):
    """Compiles templates such that the environment sees every pass of a loop, every `~` and every text written."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        if node.recursive:
            self.fail("recursive loops are not allowed", node.lineno)
        node.iter = nodes.Call(nodes.EnvironmentAttribute("counted"), [node.iter], [], None, None, lineno=node.lineno)
        super().visit_For(node, frame)

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        raise nodes.Impossible  # plain text is counted each time it is written

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concatenate((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox that also limits the work of one rendering. See `compile_limited`."""

    code_generator_class = _Compiler
    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, **options: Any) -> None:
        self._budget = threading.local()
        super().__init__(**options, finalize=_counted_output)
        for name in _REMOVED:
            self.filters.pop(name, None)
            self.globals.pop(name, None)
        self.filters = {name: self.limited(name, function) for name, function in self.filters.items()}

    def compile_limited(
        self, source: str, file: str | Path, field: str | None = None
    ) -> Callable[[Mapping[str, Any]], str]:
        """Raises SreError that names the file, and the field in it, when the template is broken."""
        with self._limit("is broken", file, field):
            self.spend("", [source] * 10)
            template = self.from_string(source)

        def render(context: Mapping[str, Any]) -> str:
            with self._limit("can't be rendered", file, field):
                return template.render(context)

        return render

    @contextlib.contextmanager
    def _limit(self, fault: str, file: str | Path, field: str | None) -> Iterator[None]:
        """A fresh budget. Templates and their compiler raise anything; all of it becomes an SreError."""
        self._budget.left = LIMIT
        try:
            yield
        except Exception as error:
            why = str(error) or type(error).__name__
            raise SreError(f"this template {fault}: {why}", file=file, field=field) from None

    def spend(self, name: str, values: Sequence[Any] = ()) -> None:
        """Count one step of the operation `name` on `values`. Raises TemplateRuntimeError once the limit is used up."""
        if name in _FORMATTING and any(re.search(r"\d{5}", value) for value in values if isinstance(value, str)):
            raise jinja2.TemplateRuntimeError("a width of five digits in a format is too wide")
        if name in _MULTIPLYING:
            cost = math.prod(max(1, abs(v) if isinstance(v, int) else self._size(v)) for v in values)
        else:
            cost = sum(map(self._size, values))
        self._take(_STEP + cost)

    def _take(self, cost: int) -> None:
        self._budget.left -= cost
        if self._budget.left < 0:
            raise jinja2.TemplateRuntimeError("it loops too often, or its text grows too long")

    def _size(self, value: Any) -> int:
        """Characters and items in `value`. Lists that share their items are large only when they are walked."""
        if isinstance(value, str):
            return len(value)
        if not isinstance(value, list | tuple | dict):
            return 1
        self._take(_STEP)
        return sum(map(self._size, value.values() if isinstance(value, dict) else value)) + _ITEM * len(value)

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend("", (item,))
            yield item

    def concatenate(self, values: tuple[Any, ...]) -> str:
        """The operator `~`."""
        self.spend("", values)
        return "".join(map(str, values))

    def limited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)  # keeps Jinja's mark of functions that take the context
        def limited(*values: Any, **options: Any) -> Any:
            self.spend(name, (*values, *options.values()))
            return function(*(self.counted(v) if isinstance(v, Iterator) else v for v in values), **options)

        return limited

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # The sandbox wraps str.format.
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        values = (owner, *args, *kwargs.values()) if isinstance(owner, str) else ()
        __self.spend(getattr(__obj, "__name__", ""), values)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            times = abs(right) if operator == "**" else 1
            self.spend("*", (left.bit_length() + right.bit_length(), times))
        else:
            values = (left, *right) if operator == "%" and isinstance(right, tuple) else (left, right)
            self.spend(operator, values)
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _UNSAFE and super().is_safe_attribute(obj, attr, value)

    def get_template(self, *args: Any, **kwargs: Any) -> jinja2.Template:
        self.spend("")
        return super().get_template(*args, **kwargs)


@jinja2.pass_environment
def _counted_output(environment: LimitedEnvironment, value: Any) -> Any:
    environment.spend("", (value,))
    return value
