"""What is told about the rows of a file before they are used: how they are read."""

import shlex
from collections.abc import Iterator, Mapping, Sequence

from recipe.data.benchmark_formats import GENERAL, judged, layout_of, unjudged
from recipe.data.columns import LABEL, MODELS, ReadRow, recognise
from recipe.data.records import Rubric, Task
from recipe.data.rubrics import is_ready, near_name
from recipe.data.values import missing, short
from recipe.errors import plural

FIRST_ROWS = 1024  # that are looked at before any is used
_MOST_NAMES = 8


def notices(rows: Sequence[ReadRow], rubrics: Mapping[Task, Rubric]) -> Iterator[str]:
    """Lines about the first rows of a file. `rubrics`: those that were given, for rows that bring none."""
    read = [(row, row.example) for row in rows if row.example]
    first = f"of the first {plural(len(rows), 'row')}"
    if named := sum(is_ready(example.rubric) for _, example in read):
        yield f"criteria that are a ready rubric's name stand for it, in {named:,} {first}"
    plain = {example.rubric.criteria: None for _, example in read if not example.rubric.descriptions}
    if nearly := next(((text, hint) for text in plain if (hint := near_name(text))), None):
        yield f"the criteria {nearly[0]!r} are no ready rubric's name and are taken as they are{nearly[1]}"
    for task, rubric in GENERAL.items():
        if any(example.rubric is rubric for _, example in read):
            yield f"{task} rows without criteria are judged by this (--rubric gives another): {rubric.criteria}"
    own = [row for row, example in read if example.rubric != rubrics.get(example.task, example.rubric)]
    if own:
        column = own[0].raw.column("criteria" if "criteria" in own[0].raw else "rubric")
        where = f" (column {column!r})" if column in own[0].raw.cells else ""
        yield f"{len(own):,} {first} bring their own criteria{where}; --rubric is only for rows without criteria"
    pairs = [row.raw for row, example in read if example.task == "pairwise"]
    if any("chosen" in row and "rejected" in row and "response_b" not in row for row in pairs):
        yield "chosen and rejected are shown in an order that their text decides, so chosen isn't always the first"
    if equal := sum(len(example.responses) > len(set(example.responses)) for _, example in read):
        yield f"both responses are the same text in {equal:,} {first}: there is nothing to choose"
    names: dict[str, str] = {}
    for row, example in read:
        others = {*LABEL.values()} - {row.raw.label(example.task)}  # read from rows of the other task alone
        others |= set() if row.raw.winning_model() else {*MODELS}
        names |= {ours: theirs for ours, theirs in row.raw.names.items() if ours not in others}
    if used := [f"{theirs} as {ours}" for ours, theirs in names.items() if not theirs.startswith("orig_")]:
        unused = _unused([row for row, _ in read], set(names.values()))
        shown = ", ".join(short(name).strip("'") for name in unused[:_MOST_NAMES])
        more = f" and {len(unused) - _MOST_NAMES} more" if len(unused) > _MOST_NAMES else ""
        yield f"reading the columns {', '.join(used)}" + (f"; not used: {shown}{more}" if unused else "")
        taken = names.get("response")
        chosen = any(recognise(row.raw.cells, {}).get("response") == taken for row, _ in read)  # and not by --map
        for other in unused if taken and chosen else ():
            if "response" in recognise({other: ""}, {}):
                takes = f"--map response={shlex.quote(other)} takes {short(other)}"
                yield f"both {taken} and {other} may be the response: {taken} is taken; {takes}"


def _unused(rows: Sequence[ReadRow], used: set[str]) -> list[str]:
    """The columns that hold something and that no row was read from, which are not among `used`."""
    filled = dict[str, None]()
    for row in rows:
        cells = unjudged(row.raw.cells) if judged(row.raw.cells) else row.raw.cells
        layout = layout_of(cells)
        used |= {*(layout.id_columns if layout else ())}
        if layout and layout.name == "Safe-RLHF":  # its columns are read under names that no column has
            return []
        filled |= {str(name): None for name, value in cells.items() if name and not missing(value) and value != ""}
    return [name for name in filled if name not in used]
