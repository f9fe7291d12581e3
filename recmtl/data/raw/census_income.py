"""Census-Income (KDD): two files without header, with labels made of income and marital status."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from recmtl.data.raw.base import RawFiles, RawReader, Sources, open_csv
from recmtl.data.raw.columns import Flag
from recmtl.data.raw.raw_source import RawSource
from recmtl.io.archives import Member
from recmtl.schema.text_format import TextFormat

COLUMNS = (
    "age", "class_worker", "det_ind_code", "det_occ_code", "education", "wage_per_hour", "hs_college", "marital_stat",
    "major_ind_code", "major_occ_code", "race", "hisp_origin", "sex", "union_member", "unemp_reason",
    "full_or_part_emp", "capital_gains", "capital_losses", "stock_dividends", "tax_filer_stat", "region_prev_res",
    "state_prev_res", "det_hh_fam_stat", "det_hh_summ", "instance_weight", "mig_chg_msa", "mig_chg_reg",
    "mig_move_reg", "mig_same", "mig_prev_sunbelt", "num_emp", "fam_under_18", "country_father", "country_mother",
    "country_self", "citizenship", "own_or_self", "vet_question", "vet_benefits", "weeks_worked", "year",
    "income_50k",
)  # fmt: skip
LABELS = {
    "income": Flag("income_50k", ("50000+.",), ("- 50000.",), "'50000+.' or '- 50000.'"),
    "never_married": Flag("marital_stat", ("Never married",), expected="a marital status"),
}


class CensusIncome(RawReader):
    """Persons of two surveys; the blank after each comma is dropped."""

    name = "census_income"
    title = "Census-Income (KDD)"
    cards = ("census_income",)
    site = "https://archive.ics.uci.edu/dataset/117/census+income+kdd"
    license = "not confirmed: read the terms of the site"
    files = "census-income.data and census-income.test (unpack the .tar.gz first)"
    split = "the site's data and test files; validation rows are held out of the first"

    def sources(self, files: RawFiles, part: str | None) -> Sources:
        """Return the rows of each split."""

        def rows(end: str) -> RawSource:
            member = files.one(rf"census-income\.{end}", f"census-income.{end}")
            return RawSource(open_csv(without_blanks(member), TextFormat(",", COLUMNS)), derived=LABELS)

        return {"train": rows("data"), "test": rows("test")}


def without_blanks(member: Member) -> Member:
    """Return a file without the blank that follows each comma."""

    def stream() -> pa.NativeFile:
        return pa.TransformInputStream(member.stream(), _drop_blanks())

    return replace(member, stream=stream)


def _drop_blanks() -> Callable[[pa.Buffer], bytes]:
    """Return a function that drops them from the parts of a file, one after the other."""
    after_comma = False

    def drop(part: pa.Buffer) -> bytes:
        nonlocal after_comma
        text: bytes = part.to_pybytes()
        text = text.removeprefix(b" ") if after_comma else text
        after_comma = text.endswith(b",")
        return text.replace(b", ", b",")

    return drop
