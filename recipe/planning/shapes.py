"""The shapes of known models, from a small table, and of a model folder, from its config.json."""

from collections.abc import Mapping

from recipe.errors import SreError
from recipe.gguf.architecture import text_config
from recipe.gguf.shape import Shape, read_sizes
from recipe.storage import intact, read_json
from recipe.system import read_table, user_path

_TABLE = read_table(__file__)
KNOWN: Mapping[str, Shape] = {name: Shape(**numbers) for name, numbers in _TABLE.items()}


def shape_of(source: str) -> Shape:
    """The shape of a seed model: a name in the table, or a model folder. Nothing is fetched."""
    if source in KNOWN:
        return KNOWN[source]
    file = user_path(source) / "config.json"
    if not file.is_file():
        raise SreError(
            f"the shape of {source!r} is not known, and nothing is downloaded to find out. Fetch its config.json and "
            f"give its folder (--set model.source=FOLDER), or plan with a model like it: {', '.join(KNOWN)}",
            field="model.source",
        )
    try:
        with intact(file):
            return Shape(**read_sizes(text_config(read_json(file))))
    except SreError as error:
        raise SreError(error.message, file=file, field=error.field) from error
