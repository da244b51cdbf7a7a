"""Results as they are read: older ones brought up to date, damaged ones refused with the place."""

import json

import pytest
from report_samples import born_again, classification, compared, peers

from limbeck.core.errors import UserError
from limbeck.core.result import SCHEMA, parse_result, read_result


def older(result):
    """The same as schema 2 wrote it: variants and numbers stand in the names of models only."""
    models = [{k: v for k, v in row.items() if k not in ("variant", "number")} for row in result["models"]]
    return {**result, "schema": 2, "models": models}


@pytest.mark.parametrize("sample", [classification, compared, born_again, peers])
def test_an_older_result_says_the_same(sample):
    whole = sample()
    found = parse_result(older(whole), "result.json")
    assert found.version == SCHEMA
    assert found.content()["models"] == parse_result(whole, "result.json").content()["models"]
    assert json.loads(json.dumps(found.content())) == json.loads(json.dumps(parse_result(whole, "x").content()))


def test_names_are_read_where_nothing_else_says_it():
    names = {row.name: row.number for row in parse_result(older(born_again()), "r").models if row.role == "generation"}
    assert names["distilled-seed0-gen1"] == 1
    variants = {row.variant for row in parse_result(older(compared()), "r").models if row.role == "compared"}
    assert {"fitnet", "at", "ctkd"} <= variants


def test_a_damaged_result_is_refused_with_its_place(tmp_path):
    whole = classification()
    whole["models"][0]["cost"]["params"] = "many"
    (tmp_path / "result.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"result\.json: is damaged: models\.0\.cost\.params: .*integer"):
        read_result(tmp_path / "result.json")


def test_what_is_no_result_or_a_newer_one_is_refused():
    for content in ([], {}, {"data": {}, "models": []}):
        with pytest.raises(UserError, match="here: is not the result of a run"):
            parse_result(content, "here")
    with pytest.raises(UserError, match=f"schema {SCHEMA + 1}, and this one knows {SCHEMA}"):
        parse_result(classification() | {"schema": SCHEMA + 1}, "here")


def test_what_a_newer_version_adds_is_kept():
    assert parse_result(classification() | {"later": [1]}, "here").content()["later"] == [1]
