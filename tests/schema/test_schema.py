from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from recmtl.recipe.presets import find_card
from recmtl.schema import Binned, Categorical, Funnel, MultiCategorical, Numeric, Schema, SchemaError, Task, Timestamp

CARDS = sorted((Path(__file__).parents[2] / "data").glob("*.yaml"))
ALIEXPRESS = [
    "search_id",
    *(f"categorical_{i}" for i in range(1, 17)),
    *(f"numerical_{i}" for i in range(1, 64)),
    "click",
    "conversion",
]


def make(**changes):
    parts = {"features": [Categorical("c"), Numeric("n")], "tasks": [Task("t", "y")]} | changes
    return Schema(**parts)


FULL = Schema(
    features=[
        Categorical("brand", min_count=2, max_vocabulary=9, width=4),
        Categorical("user", hash_buckets=1024),
        MultiCategorical("genres", separator=";", max_length=7, pooling="sum"),
        Numeric("price", transform="log1p"),
        Numeric("n_*", transform="quantile", clip=(None, 9.5), missing_indicator=True),
        Binned("age", bins=8, width=4, clip=[0, 99]),
        MultiCategorical("brands_*", share_with="brand"),
        Timestamp("day"),
        Timestamp("when", parts=["weekday", "minute"], format="%d.%m.%Y %H:%M", width=3),
    ],
    tasks=[
        Task("ctr", "click", weight=0.5, loss="focal"),
        Task("buy", "conversion", given="click"),
        Task("stay", "seconds", kind="regression", loss="huber"),
    ],
    funnel=Funnel("click", "conversion"),
    group="search",
    keys=["search", "item"],
    weight="w",
    description="Größe",
)


class TestResolve:
    def test_patterns_follow_the_order_of_the_file(self):
        schema = make(features=[Numeric("n*"), Categorical("c?")])
        resolved = schema.resolve(["n2", "c1", "y", "n1", "other"])
        assert [(type(f), f.name) for f in resolved.features] == [
            (Numeric, "n2"),
            (Numeric, "n1"),
            (Categorical, "c1"),
        ]

    def test_pattern_keeps_its_options(self):
        resolved = make(features=[Categorical("c*", min_count=3, width=2)]).resolve(["c1", "c2", "y"])
        assert resolved.features == (
            Categorical("c1", min_count=3, width=2),
            Categorical("c2", min_count=3, width=2),
        )

    def test_exact_name_takes_precedence_over_a_pattern(self):
        for features in ([Numeric("x*"), Categorical("x1")], [Categorical("x1"), Numeric("x*")]):
            kinds = {f.name: type(f) for f in make(features=features).resolve(["x1", "x2", "y"]).features}
            assert kinds == {"x1": Categorical, "x2": Numeric}

    def test_exact_name_may_contain_a_wildcard(self):
        resolved = make(features=[Numeric("price[usd]")]).resolve(["price[usd]", "y"])
        assert resolved.resolve(["price[usd]", "y"]) == resolved

    def test_resolving_twice_changes_nothing(self):
        columns = ["a", "b*", "y"]
        resolved = make(features=[Numeric("*")], tasks=[Task("t", "y")], keys=[])
        with pytest.raises(SchemaError, match="'y' is the label of task 't'"):
            resolved.resolve(columns)
        resolved = make(features=[Numeric("[ab]*")]).resolve(columns)
        assert resolved.resolve(columns) == resolved

    def test_two_patterns_matching_one_column(self):
        with pytest.raises(SchemaError, match="feature 'x1' is declared twice"):
            make(features=[Numeric("x*"), Categorical("*1")]).resolve(["x1", "y"])

    def test_pattern_matching_no_column(self):
        with pytest.raises(SchemaError, match=r"no column of f\.csv matches the feature pattern 'z_\*'"):
            make(features=[Numeric("z_*")]).resolve(["x", "y"], "f.csv")

    @pytest.mark.parametrize(
        "roles",
        [
            {},
            {"weight": "w"},
            {"tasks": [Task("t", "y", given="cond")]},
            {"funnel": Funnel("click", "bought")},
        ],
    )
    def test_pattern_matching_a_role(self, roles):
        schema = make(features=[Numeric("*")], **roles)
        caught = next(c for c in schema.columns if c != "*" and (c != "y" or not roles))
        with pytest.raises(SchemaError, match=f"'{caught}' is the .* and cannot be a feature as well"):
            schema.resolve(["x", caught])

    def test_the_group_is_a_feature_by_its_name_alone(self):
        columns = ["x", "y", "g"]
        resolved = make(features=[Numeric("[xg]")], group="g").resolve(columns)
        assert [f.name for f in resolved.features] == ["x"]
        named = make(features=[Numeric("x"), Categorical("g")], group="g").resolve(columns)
        assert [f.name for f in named.features] == ["x", "g"]
        assert named.columns == ("x", "g", "y")

    def test_missing_column_suggests_the_nearest(self):
        with pytest.raises(SchemaError, match=r"column 'price' is not in f\.csv; did you mean 'prices'\?"):
            make(features=[Numeric("price")]).resolve(["prices", "y"], "f.csv")

    def test_missing_column_shows_the_first_columns(self):
        with pytest.raises(SchemaError, match=r"column 'price' is not in the data; its columns begin with 'a;b;y'"):
            make(features=[Numeric("price")]).resolve(["a;b;y"])

    @pytest.mark.parametrize("role", [{"group": "gone"}, {"weight": "gone"}, {"keys": ["gone"]}])
    def test_missing_role_column(self, role):
        with pytest.raises(SchemaError, match="column 'gone' is not in"):
            make(**role).resolve(["c", "n", "y"])


class TestRoles:
    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"tasks": [Task("t", "c")]}, "label of task 't'"),
            ({"tasks": [Task("t", "y", given="c")]}, "condition of task 't'"),
            ({"funnel": Funnel("c", "y")}, "label of the funnel"),
            ({"funnel": Funnel("y", "c")}, "label of the funnel"),
            ({"weight": "c"}, "row weight"),
        ],
    )
    def test_role_cannot_be_a_feature(self, changes, why):
        with pytest.raises(SchemaError, match=f"column 'c' is the {why} and cannot be a feature"):
            make(**changes)

    def test_key_may_be_a_feature(self):
        schema = make(keys=["c"])
        assert schema.carried == ("c",)
        assert "c" not in schema.unfeatured

    def test_columns(self):
        assert FULL.labels == ("click", "conversion", "seconds")
        assert FULL.binary_labels == FULL.conditions == {"click", "conversion"}
        schema = make(tasks=[Task("a", "p"), Task("b", "q", given="z"), Task("r", "r", kind="regression")])
        assert (schema.binary_labels, schema.conditions) == ({"p", "q", "z"}, {"z"})
        assert FULL.carried == ("search", "item")
        features = ("brand", "user", "genres", "price", "n_*", "age", "brands_*", "day", "when")
        assert FULL.columns == (*features, "click", "conversion", "seconds", "search", "item", "w")
        assert FULL.unfeatured == {"click", "conversion", "seconds", "search", "item", "w"}

    def test_no_features_no_tasks_duplicates(self):
        with pytest.raises(SchemaError, match="at least one feature"):
            make(features=[])
        with pytest.raises(SchemaError, match="at least one task"):
            make(tasks=[])
        with pytest.raises(SchemaError, match="feature 'c' is declared twice"):
            make(features=[Categorical("c"), Numeric("c")])
        with pytest.raises(SchemaError, match="task 't' is declared twice"):
            make(tasks=[Task("t", "y"), Task("t", "z")])

    @pytest.mark.parametrize("changes", [{"keys": "search"}, {"features": "c"}, {"tasks": "t"}])
    def test_text_is_not_a_list(self, changes):
        with pytest.raises(SchemaError, match="must be a list, got '"):
            make(**changes)

    @pytest.mark.parametrize(
        "changes", [{"group": 5}, {"weight": ""}, {"keys": [5]}, {"group": ["a"]}, {"keys": [["a"]]}]
    )
    def test_roles_must_be_column_names(self, changes):
        with pytest.raises(SchemaError, match=r"`(group|weight)` must be non-empty text|`keys` must be column names"):
            make(**changes)


class TestCaching:
    def test_derived_tasks_are_built_once(self, monkeypatch):
        schema = make(funnel=Funnel("click", "buy"))
        expected = schema.reported_tasks
        monkeypatch.setattr(Task, "__post_init__", None)  # a new task would fail
        assert schema.reported_tasks is expected
        assert schema.resolve(["c", "n", "y", "click", "buy"]) is schema  # nothing to resolve, nothing to validate

    def test_cached_values_are_not_part_of_the_schema(self):
        schema, other = make(funnel=Funnel("click", "buy")), make(funnel=Funnel("click", "buy"))
        assert (len(schema.columns), schema.labels) == (5, ("y", "click", "buy"))
        assert (schema, hash(schema), schema.to_dict()) == (other, hash(other), other.to_dict())
        assert replace(schema, tasks=[Task("u", "z")]).labels == ("z", "click", "buy")


class TestRepr:
    def test_fits_a_line(self):
        schema = Schema.load(find_card("aliexpress")).resolve(ALIEXPRESS)
        assert repr(schema) == "Schema(16 categorical, 63 numeric; tasks ctr, ctcvr; group search_id)"
        assert repr(FULL) == (
            "Schema(2 categorical, 2 multi_categorical, 2 numeric, 1 binned, 2 timestamp; tasks ctr, buy, stay; "
            "group search; weight w)"
        )
        assert "tasks t0, t1, t2, t3, t4, …)" in repr(make(tasks=[Task(f"t{i}", f"y{i}") for i in range(9)]))

    def test_notebook_tables(self):
        tables = ElementTree.fromstring(f"<div>{FULL._repr_html_()}</div>").findall("table")
        features, tasks = ([[cell.text for cell in row] for row in table.iter("tr")] for table in tables)
        assert features[0] == ["feature", "kind", "options"]
        assert [row[0] for row in features[1:]] == [f.name for f in FULL.features]
        assert features[1] == ["brand", "categorical", "min_count=2, max_vocabulary=9, width=4"]
        assert tasks[2:] == [
            ["buy", "conversion", "click", None],
            ["stay", "seconds", None, "kind=regression, loss=huber"],
        ]

    def test_notebook_tables_are_short_and_escaped(self):
        features = [Numeric(f"n{i}") for i in range(500)] + [Numeric("<script>")]
        html = make(features=features)._repr_html_()
        assert len(html) < 10_000
        assert "<script>" not in html
        assert "&lt;script&gt;" in html


class TestFunnel:
    def test_missing_tasks_are_added(self):
        schema = make(funnel=Funnel("click", "buy"))
        made = (Task("ctr", "click"), Task("cvr", "buy", given="click"), Task("ctcvr", "buy"))
        assert schema.funnel_tasks == made
        assert schema.reported_tasks == (*made, Task("t", "y"))

    def test_own_tasks_keep_their_names_and_options(self):
        own = (Task("p_buy", "buy", weight=2.0), Task("p_click", "click"), Task("other", "y"))
        schema = make(tasks=own, funnel=Funnel("click", "buy"))
        assert [t.name for t in schema.funnel_tasks] == ["p_click", "cvr", "p_buy"]
        assert schema.funnel_tasks[2] is own[0]
        assert [t.name for t in schema.reported_tasks] == ["p_click", "cvr", "p_buy", "other"]

    def test_without_a_funnel(self):
        assert make().funnel_tasks == ()
        assert make().reported_tasks == make().tasks

    def test_members_of_a_funnel_have_the_names_of_their_tasks(self):
        tasks = (Task("ctr", "click"), Task("cvr", "buy"))  # "cvr" over all rows, which is CTCVR
        schema = make(tasks=tasks, funnel=Funnel("click", "buy"))
        assert [t.name for t in schema.funnel_tasks] == ["ctr", "buy_given_click", "cvr"]
        assert schema.funnel_tasks[::2] == tasks
        schema = make(tasks=[Task("cvr", "buy", "click"), Task("ctr", "y")], funnel=Funnel("click", "buy"))
        assert [t.name for t in schema.reported_tasks] == ["click", "cvr", "ctcvr", "ctr"]

    def test_a_task_with_the_name_of_another_funnel_task(self):
        tasks = [Task("ctr", "y"), Task("click", "z")]  # leave no name for the clicks
        with pytest.raises(SchemaError, match="task 'click' differs from the funnel's 'click'"):
            make(tasks=tasks, funnel=Funnel("click", "buy"))


class TestOptions:
    @pytest.mark.parametrize("option", ["min_count", "max_vocabulary", "hash_buckets", "width"])
    @pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
    def test_counts(self, option, value):
        with pytest.raises(SchemaError, match=f"'c': `{option}` must be an integer of at least 1, got {value!r}"):
            Categorical("c", **{option: value})

    def test_none_only_if_it_is_the_default(self):
        Categorical("c", max_vocabulary=None, hash_buckets=None, width=None)
        with pytest.raises(SchemaError, match="`min_count` must be an integer of at least 1, got None"):
            Categorical("c", min_count=None)
        with pytest.raises(SchemaError, match="`max_length` must be an integer of at least 1, got None"):
            MultiCategorical("c", max_length=None)

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: MultiCategorical("m", separator=""), "`separator` must be non-empty text"),
            (lambda: MultiCategorical("m", max_length=0), "`max_length` must be an integer of at least 1, got 0"),
            (lambda: MultiCategorical("m", min_count=0), "`min_count` must be an integer of at least 1, got 0"),
            (
                lambda: MultiCategorical("m", pooling="max"),
                "`pooling` must be one of 'mean', 'sum', 'self_attention', 'target_attention', got 'max'",
            ),
            (lambda: Numeric("n", transform="sqrt"), "`transform` must be one of .*, got 'sqrt'"),
            (lambda: Numeric("n", clip=5), r"`clip` must be \[low, high\] with low below high, .* null, got 5"),
            (lambda: Numeric("n", clip=(2, 2)), r"`clip` must be .*, got \(2, 2\)"),
            (lambda: Numeric("n", clip=(None, None)), r"`clip` must be .*, got \(None, None\)"),
            (lambda: Numeric("n", clip=(0, "9")), r"`clip` must be .*, got \(0, '9'\)"),
            (lambda: Binned("n", clip=(0, 1, 2)), r"`clip` must be .*, got \(0, 1, 2\)"),
            (lambda: Numeric("n", missing_indicator=1), "`missing_indicator` must be true or false, got 1"),
            (lambda: Binned("n", bins=0), "`bins` must be an integer of at least 1, got 0"),
            (lambda: Binned("n", width=0), "`width` must be an integer of at least 1, got 0"),
            (lambda: Numeric(5), "`name` must be non-empty text, got 5"),
            (lambda: Categorical(""), "`name` must be non-empty text, got ''"),
            (lambda: Task("t", "y", kind="ranking"), "`kind` must be one of .*, got 'ranking'"),
            (
                lambda: Task("t", "y", loss="mse"),
                r"`loss` of a binary task must be one of bce, focal, or the import path",
            ),
            (lambda: Task("t", "y", kind="regression", loss="bce"), "`loss` of a regression task must be one of"),
            (lambda: Task("t", "y", weight=-1), "`weight` must be a number of at least 0, got -1"),
            (lambda: Task("t", "y", weight=float("nan")), "`weight` must be a number of at least 0, got nan"),
            (lambda: Task("t", "y", weight=float("inf")), "`weight` must be a number of at least 0, got inf"),
            (lambda: Task("t", "y", weight="1e-3"), "`weight` must be a number of at least 0, got '1e-3'"),
            (lambda: Task("t", True), "`label` must be non-empty text, got True"),
            (lambda: Task("t", "y", given=1), "`given` must be non-empty text"),
        ],
    )
    def test_invalid(self, build, message):
        with pytest.raises(SchemaError, match=message):
            build()


class TestCard:
    def test_round_trip(self, tmp_path):
        assert Schema.from_dict(FULL.to_dict()) == FULL
        FULL.save(tmp_path / "card.yaml")
        loaded = Schema.load(tmp_path / "card.yaml")
        assert loaded == FULL
        assert loaded.description == "Größe"
        assert loaded.to_dict() == FULL.to_dict()

    def test_defaults_are_not_written(self):
        assert make().to_dict() == {
            "features": [{"categorical": "c"}, {"numeric": "n"}],
            "tasks": [{"name": "t", "label": "y"}],
        }

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"feature": []}, r"unknown key 'feature'; did you mean 'features'\?"),
            ({"features": [{"categorical": "c", "min_counts": 2}]}, "unknown option 'min_counts' of a Categorical; "),
            (
                {"features": [{"kategorical": "c"}]},
                "a feature must have exactly one of categorical, multi_categorical, num",
            ),
            ({"features": [{"categorical": "c", "numeric": "c"}]}, "a feature must have exactly one of"),
            ({"features": ["c"]}, "a feature must have exactly one of .*, got 'c'"),
            ({"features": 5}, "`features` must be a list, got 5"),
            ({"features": {"categorical": "c"}}, "`features` must be a list"),
            ({"features": None}, "at least one feature"),
            ({"tasks": [{"name": "t"}]}, "a Task needs name and label, got {'name': 't'}"),
            ({"tasks": ["t"]}, "a Task must be a mapping, got 't'"),
            ({"tasks": [{"name": "t", "label": "y", "wieght": 2}]}, "unknown option 'wieght' of a Task; .*'weight'"),
            (
                {"tasks": [{"name": "t", "label": "y", "weight": "big"}]},
                "`weight` must be a number of at least 0, got 'big'",
            ),
            ({"funnel": {"click": "c"}}, "card.yaml: the label 'click' of a funnel follows 'c', which is none of its"),
            ({"keys": "search"}, "`keys` must be a list, got 'search'"),
            ({7: 1}, "unknown key 7"),
        ],
    )
    def test_invalid(self, change, message):
        with pytest.raises(SchemaError, match=message):
            Schema.from_dict(make().to_dict() | change, "card.yaml")

    def test_error_contains_the_path(self, tmp_path):
        path = tmp_path / "card.yaml"
        path.write_text("featurez: []\n")
        with pytest.raises(SchemaError, match=rf"{path}: unknown key 'featurez'"):
            Schema.load(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "must be a mapping with features and tasks, got NoneType"),
            (b"- a\n", "must be a mapping with features and tasks, got list"),
            (b"a: [1\n", "is not YAML"),
            (b"\xff\xfe\x00\xd8", "is not YAML"),
            (b"\x00\x01", "is not YAML"),
        ],
    )
    def test_not_a_card(self, tmp_path, content, message):
        (tmp_path / "card.yaml").write_bytes(content)
        with pytest.raises(SchemaError, match=message) as caught:
            Schema.load(tmp_path / "card.yaml")
        assert "\n" not in str(caught.value)

    def test_missing_card(self, tmp_path):
        for path in (tmp_path / "gone.yaml", tmp_path):
            with pytest.raises(SchemaError, match=f"cannot read the dataset card '{path}'"):
                Schema.load(path)


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.stem)
def test_shipped_cards_load(path):
    schema = Schema.load(path)
    assert schema.description
    assert find_card(path.stem) == path
    assert Schema.from_dict(yaml.safe_load(yaml.safe_dump(schema.to_dict()))) == schema


def test_shipped_cards_exist():
    assert {"aliexpress", "census_income"} <= {path.stem for path in CARDS}


def test_aliexpress_card():
    schema = Schema.load(find_card("aliexpress")).resolve(ALIEXPRESS)
    assert [f.name for f in schema.features] == ALIEXPRESS[1:80]
    assert sum(type(f) is Categorical for f in schema.features) == 16
    assert sum(type(f) is Numeric for f in schema.features) == 63
    assert [t.name for t in schema.reported_tasks] == ["ctr", "cvr", "ctcvr"]
    assert [t.name for t in schema.tasks] == ["ctr", "ctcvr"]
    assert schema.group == "search_id"
    assert schema.carried == ("search_id",)


def test_census_card():
    schema = Schema.load(find_card("census_income"))
    assert len(schema.features) == 39
    assert "instance_weight" not in schema.columns
    assert [t.name for t in schema.tasks] == ["income", "never_married"]


def test_key_cannot_have_the_name_of_a_task():
    with pytest.raises(SchemaError, match="key 'ctr' has the name of a task"):
        Schema([Numeric("x")], [Task("ctr", "click")], keys=["ctr"])


class TestSharing:
    @pytest.mark.parametrize(
        ("option", "value"), [("min_count", 2), ("max_vocabulary", 5), ("hash_buckets", 8), ("width", 4)]
    )
    def test_vocabulary_options_are_set_on_the_owner(self, option, value):
        message = f"MultiCategorical 'm' shares the vocabulary of 'c': set `{option}` there"
        with pytest.raises(SchemaError, match=message):
            MultiCategorical("m", share_with="c", **{option: value})

    @pytest.mark.parametrize(
        ("owner", "message"),
        [
            ("gone", "feature 's' shares the vocabulary of 'gone', which is not a feature"),
            ("n", "feature 's' shares the vocabulary of 'n', which is not categorical"),
            ("day", "feature 's' shares the vocabulary of 'day', which is not categorical"),
            ("s", "feature 's' shares the vocabulary of 's', which has none of its own"),
            (
                "other",
                "feature 's' shares the vocabulary of 'other', which has none of its own: set `share_with` to",
            ),
        ],
    )
    def test_invalid(self, owner, message):
        others = [Categorical("c"), Numeric("n"), Timestamp("day"), Categorical("other", share_with="c")]
        with pytest.raises(SchemaError, match=message):
            make(features=[*others, Categorical("s", share_with=owner)])

    def test_patterns(self):
        schema = make(features=[Categorical("item_*"), Categorical("seen_*", share_with="item_1")])
        resolved = schema.resolve(["item_1", "item_2", "seen_1", "seen_2", "y"])
        assert [resolved.owner(f).name for f in resolved.features] == ["item_1", "item_2", "item_1", "item_1"]
        with pytest.raises(SchemaError, match="shares the vocabulary of 'item_1', which is not a feature"):
            schema.resolve(["item_2", "seen_1", "y"])


class TestTimestamp:
    @pytest.mark.parametrize("parts", [(), ("year",), ("hour", "hour"), "hour", None, [["hour"]]])
    def test_parts(self, parts):
        with pytest.raises(SchemaError, match="Timestamp 'd': `parts` must be some of minute, hour, weekday, day, mon"):
            Timestamp("d", parts=parts)

    @pytest.mark.parametrize("written", ["%z %H", "%H %z%z"])
    def test_zone_must_be_last(self, written):
        with pytest.raises(SchemaError, match="Timestamp 'd': `format` may have %z only at its end, got"):
            Timestamp("d", format=written)

    def test_invalid_options(self):
        with pytest.raises(SchemaError, match="`format` must be non-empty text"):
            Timestamp("d", format="")
        with pytest.raises(SchemaError, match="`width` must be an integer of at least 1"):
            Timestamp("d", width=0)


class TestSeparator:
    def test_saved_with_the_card(self, tmp_path):
        schema = Schema([Categorical("c")], [Task("t", "y")], separator=";")
        schema.save(tmp_path / "card.yaml")
        assert Schema.load(tmp_path / "card.yaml") == schema
        assert schema.resolve(["c", "y"]).separator == ";"
        assert "separator" not in Schema([Categorical("c")], [Task("t", "y")]).to_dict()

    @pytest.mark.parametrize(
        ("written", "meant"), [(r"\t", "\t"), (r"\x01", "\x01"), ("\\\\", "\\"), ("\\", "\\"), ("|", "|")]
    )
    def test_a_character_that_is_written_out(self, written, meant):
        schema = Schema([Categorical("c")], [Task("t", "y")], separator=written)
        assert schema.separator == schema.text_format.separator == meant
        assert Schema.from_dict(schema.to_dict()) == schema

    @pytest.mark.parametrize("separator", ["", ";;", "\n", '"', "ß", 5])
    def test_one_character(self, separator):
        with pytest.raises(SchemaError, match="`separator` must be one ASCII character"):
            Schema([Categorical("c")], [Task("t", "y")], separator=separator)
