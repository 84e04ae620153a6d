"""All tasks of the seed data, one rubric each, by the name of the rubric."""

from recipe.synthetic.tasks_counts import COUNT_TASKS
from recipe.synthetic.tasks_lines import LINE_TASKS
from recipe.synthetic.tasks_lists import LIST_TASKS
from recipe.synthetic.tasks_pairs import PAIR_TASKS
from recipe.synthetic.tasks_parts import PART_TASKS
from recipe.synthetic.tasks_types import Task

_ALL = (*COUNT_TASKS, *LIST_TASKS, *PAIR_TASKS, *LINE_TASKS, *PART_TASKS)
TASKS: dict[str, Task] = {task.aspect: task for task in _ALL}
