"""All tasks of the seed data, one rubric each, by the name of the rubric."""

from tools.seed_data.tasks_counts import COUNT_TASKS
from tools.seed_data.tasks_lines import LINE_TASKS
from tools.seed_data.tasks_lists import LIST_TASKS
from tools.seed_data.tasks_pairs import PAIR_TASKS
from tools.seed_data.tasks_parts import PART_TASKS
from tools.seed_data.tasks_types import Task

_ALL = (*COUNT_TASKS, *LIST_TASKS, *PAIR_TASKS, *LINE_TASKS, *PART_TASKS)
TASKS: dict[str, Task] = {task.aspect: task for task in _ALL}
