"""What is kept of the candidate pairs: mirrors, criteria in turn, no drift of the chosen labels, caps."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.config import CurateConfig
from recipe.data.records import Judgement
from recipe.training.balance import MOST_OF_A_LABEL, SMALL, select


def pair(example, chosen, rejected, number=0, task="pointwise"):
    sides = [
        Judgement(f"{example}:{side}:{number}", example, task, f"{side} {number}", side, label, chosen)
        for side, label in (("right", chosen), ("wrong", rejected))
    ]
    return tuple(sides)


def labels(pairs):
    return Counter((chosen.label, rejected.label) for chosen, rejected in pairs)


@st.composite
def candidates(draw):
    found = []
    for number in range(draw(st.integers(1, 40))):
        truth = draw(st.integers(1, 5))
        for sample in range(draw(st.integers(1, 3))):
            other = draw(st.sampled_from([label for label in range(1, 6) if label != truth]))
            found.append(pair(f"in-{number}", truth, other, sample))
    return found


@settings(max_examples=200, deadline=None)
@given(candidates(), st.sampled_from([None, 1, 2]), st.sampled_from([None, 4, 20]), st.integers(1, 6))
def test_mirrors_come_together_and_no_label_is_chosen_too_often(pairs, cap, most, criteria):
    config = CurateConfig(max_pairs_per_input=cap, max_pairs=most)
    of = {chosen.example_id: str(int(chosen.example_id[3:]) % criteria) for chosen, _ in pairs}
    kept = select(pairs, config, of, seed=3)
    counts = labels(kept)
    assert all(counts[a, b] == counts[b, a] for a, b in counts)
    chosen = Counter(side.label for side, _ in kept)
    if kept:
        possible = len({label for label in range(1, 6) for a, b in labels(pairs) if (label == a)})
        assert max(chosen.values()) <= MOST_OF_A_LABEL * len(kept) / max(1, min(possible, len(chosen))) + SMALL
    assert kept == select(pairs, config, of, seed=3)
    assert len(kept) <= (most or len(kept))
    assert all(count <= (cap or count) for count in Counter(side.example_id for side, _ in kept).values())


def supply(**counts):
    """Candidates in these numbers: a5_2=3 makes three pairs whose chosen label is 5 and whose rejected one is 2."""
    found = []
    for name, count in counts.items():
        chosen, rejected = (int(part) for part in name[1:].split("_"))
        found += [pair(f"{name}-{k}", chosen, rejected) for k in range(count)]
    return found


def test_the_chosen_labels_do_not_drift_when_pairs_of_some_run_short():
    """Plenty of 4 against 5, few of all others: a set of 250 pairs would choose 4 and 5 four times out of five."""
    plenty = supply(p4_5=100, p5_4=100)
    few = supply(**{f"p{a}_{b}": 5 for a in range(1, 6) for b in range(1, 6) if a != b and {a, b} != {4, 5}})
    kept = select([*plenty, *few], CurateConfig(), {}, seed=0)
    chosen = Counter(side.label for side, _ in kept)
    assert len(kept) >= len(few)
    assert max(chosen.values()) <= MOST_OF_A_LABEL * len(kept) / 5 + SMALL
    unbalanced = select([*plenty, *few], CurateConfig(balance_labels=False), {}, seed=0)
    assert len(unbalanced) == len(plenty) + len(few)


def test_a_rare_label_does_not_end_the_selection():
    pairs = supply(p1_5=60, p5_1=60, p2_4=60, p4_2=60, p3_1=60, p1_3=60, p3_5=1, p5_3=1)
    kept = select(pairs, CurateConfig(), {}, seed=0)
    assert len(kept) > 200


def test_a_mirror_is_of_the_same_criterion_as_long_as_there_is_one():
    """Of each criterion four pairs one way; the other way three of its own and, of a third criterion, many."""
    pairs, criteria = [], {}

    def add(criterion, chosen, rejected, count):
        for _ in range(count):
            name = f"in-{len(pairs)}"
            criteria[name] = criterion
            pairs.append(pair(name, chosen, rejected))

    for criterion in ("clarity", "facts"):
        add(criterion, 5, 2, 4)
        add(criterion, 2, 5, 3)
    add("tone", 2, 5, 50)

    def net(kept):
        found = Counter()
        for chosen, rejected in kept:
            found[criteria[chosen.example_id]] += chosen.label - rejected.label
        return found

    kept = select(pairs, CurateConfig(max_pairs=12), criteria, seed=0)
    assert set(net(kept).values()) == {0}  # no criterion says which label wins
    assert len(kept) == 12
    assert len(select(pairs, CurateConfig(), criteria, seed=0)) == 16  # the last mirrors come from elsewhere
    blind = [
        select(pairs, CurateConfig(max_pairs=12, balance_criteria=False), criteria, seed=seed) for seed in range(5)
    ]
    assert any(set(net(kept).values()) != {0} for kept in blind)


def test_criteria_take_turns():
    pairs, criteria = [], {}
    for criterion, count in (("common", 300), ("rare", 20), ("rarer", 14)):
        for _ in range(count):
            name = f"in-{len(pairs)}"
            criteria[name] = criterion
            pairs.append(pair(name, *((5, 2) if len(pairs) % 2 else (2, 5))))

    def turns(settings):
        kept = select(pairs, settings, criteria, seed=0)
        return Counter(criteria[chosen.example_id] for chosen, _ in kept)

    assert turns(CurateConfig(max_pairs=36)) == {"common": 12, "rare": 12, "rarer": 12}
    assert turns(CurateConfig(max_pairs=36, balance_criteria=False))["common"] > 24


def test_tasks_take_turns():
    pairs = supply(p1_2=20, p2_1=20)
    pairs += [pair(f"two-{k}", 1 + k % 2, 2 - k % 2, task="pairwise") for k in range(40)]
    kept = select(pairs, CurateConfig(max_pairs=20), {}, seed=0)
    assert Counter(chosen.task for chosen, _ in kept) == {"pointwise": 10, "pairwise": 10}
