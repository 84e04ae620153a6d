"""Configs: every preset loads, and a wrong key or value names the file and the key."""

from pathlib import Path

import pytest

from recipe.config import Config, dump, load, presets, validate
from recipe.errors import SreError


def test_a_text_of_any_characters_survives_a_round_trip(tmp_path):
    config = validate({"data": {"pointwise": 'a "quoted" \\ name\n\x1b\t of ü and 😀.jsonl'}})
    (tmp_path / "config.toml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "config.toml") == config


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_survives_a_round_trip(name, tmp_path):
    config = load(name)
    copy = tmp_path / "copy.toml"
    copy.write_text(dump(config))
    assert load(copy) == config


def test_the_defaults_are_the_papers_where_it_states_any():
    config = Config()
    assert (config.sample.n, config.sample.temperature) == (10, 1.0)
    assert [config.sample.inputs_of(t) for t in (1, 2, 3)] == [5000, 500, 50]
    assert config.curate.margin == 2
    assert (config.merge.method, config.merge.pointwise_weight, config.iterations) == ("exact", 0.5, 2)


def test_a_setting_of_an_older_version_has_its_present_name():
    config = validate({"export": {"judge": "Q4_K_M"}, "dpo": {"dev_share": 0.25}})
    assert (config.export.type, config.dpo.held_out_share) == ("Q4_K_M", 0.25)
    assert validate({"export": {"judge": "Q4_K_M", "type": "F16"}}).export.type == "F16"


def test_the_update_of_an_older_version_is_read_where_it_was_dpo():
    assert validate({"update": "dpo", "iterations": 1}) == Config(iterations=1)
    with pytest.raises(SreError, match="update"):
        validate({"update": "best-of-n"})


def test_the_curation_of_an_older_version_is_read_where_it_was_the_default():
    assert validate({"curate": {"method": "correct-answer", "margin": 1}}) == Config(curate={"margin": 1})
    with pytest.raises(SreError, match="python -m experiments PRESET meta-judge"):
        validate({"curate": {"method": "meta-judge"}})


def test_overrides_are_toml_or_plain_text():
    config = load("tiny", ["sample.n=3", 'data.pointwise="rows.jsonl"', "data.pairwise=pairs.jsonl", "seed=7"])
    assert (config.sample.n, config.data.pointwise, config.data.pairwise) == (3, "rows.jsonl", "pairs.jsonl")
    assert config.seed == 7


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[sample]\nm = 3", "sample.m"),
        ("[sample]\nn = 'three'", "sample.n"),
        ("[sample]\nn = 0", "sample.n"),
        ("[curate]\nmargin = 'best'", "curate.margin"),
        ("[dpo]\nbeta = -1.0", "dpo.beta"),
        ("unknown = 1", "unknown"),
        ("name = 'a/b'", "name"),
    ],
)
def test_a_wrong_setting_names_file_and_field(text, field, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SreError) as caught:
        load(path)
    assert caught.value.field == field
    assert "mine.toml" in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_config(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("seed = 7\n", encoding="utf-8-sig")
    assert load(path).seed == 7


def test_a_config_in_any_encoding_of_unicode_is_read_and_others_are_told(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("seed = 7\r\n", encoding="utf-16")  # as Windows PowerShell redirects output
    assert load(path).seed == 7
    path.write_bytes(b'seed = 7\n[data]\npointwise = "Ren\xe9.jsonl"\n')
    with pytest.raises(SreError, match=r"mine\.toml, line 3: .* save the file as UTF-8"):
        load(path)


def test_broken_toml_and_missing_files_are_named(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("seed = = 1")
    with pytest.raises(SreError, match=r"broken\.toml: not valid TOML"):
        load(path)
    with pytest.raises(SreError, match=r"nowhere\.toml: no such config file.*tiny"):
        load("nowhere.toml")


@pytest.mark.parametrize("override", ["sample.n", "=3", "seed.deep=1"])
def test_an_override_of_no_sense_is_refused(override):
    with pytest.raises(SreError):
        load("tiny", [override])


def test_a_judge_type_that_is_not_exported_is_refused():
    with pytest.raises(SreError, match=r"not among export\.types"):
        validate({"export": {"judge": "Q2_K"}})


@pytest.mark.parametrize("name", [name for name in presets() if name.endswith("-paper")])
def test_presets_of_the_papers_recipe_add_nothing_of_ours(name):
    config = load(name)
    assert (config.dpo.sft_weight, config.dpo.max_kl) == (0.0, None)
    assert config.data.reference_share == 0


def test_dev_rows_need_checkpoints_to_choose_from():
    for section in ({"dpo": {"checkpoints": 0, "held_out_share": 0.1}}, {"sft": {"checkpoints": 0, "patience": 2}}):
        with pytest.raises(SreError, match="checkpoints"):
            validate(section)


def test_misspelled_names_are_told_with_the_nearest() -> None:
    with pytest.raises(SreError, match=r"did you mean 'sample\.inputs'") as refused:
        load("tiny", ["sample.inpts=[10]"])
    assert refused.value.field == "sample.inpts"
    with pytest.raises(SreError, match="did you mean 'tiny'"):
        load("tinny", [])


def test_a_folder_with_a_config_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('name = "mine"\n')
    assert load(str(tmp_path), []).name == "mine"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("margin", "curate.margin"), ("dpo.learning_rat", "dpo.learning_rate"), ("sft.learning_rat", "sft.learning_rate")],
)
def test_a_misspelt_setting_is_named_with_its_section(written: str, meant: str) -> None:
    with pytest.raises(SreError, match=f"did you mean '{meant}'"):
        load("tiny", [f"{written}=2"])
