import pytest

from fedhealth.table_source import check_query

REFUSED = {
    "SELECT * FROM v LIMIT 10": "LIMIT",
    "SELECT * FROM v ORDER BY x limit 10 OFFSET 3": "LIMIT",
    "SELECT * FROM v FETCH FIRST 3 ROWS ONLY": "FETCH",
    "SELECT * FROM v USING SAMPLE 10%": "SAMPLE",
    "SELECT * FROM v TABLESAMPLE 10%": "TABLESAMPLE",
    "SELECT *, random() FROM v": "same rows",
    "SELECT hex(RandomBlob (16)) AS id FROM v": "same rows",
    "SELECT x - avg(x) OVER () FROM v": "OVER",
    "SELECT rank() over (ORDER BY x) FROM v": "OVER",
    "SELECT rank() OVER w FROM v WINDOW w AS (ORDER BY x)": "OVER",
}


@pytest.mark.parametrize("query", REFUSED)
def test_a_query_whose_rows_rest_on_several_patients_or_on_chance_is_refused(query):
    for table_format in ("duckdb", "sqlite"):
        with pytest.raises(ValueError, match=REFUSED[query]):
            check_query(query, table_format)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM v",
        'SELECT "limit", "sample" FROM v',
        "SELECT * FROM v WHERE word = 'over the limit' -- no LIMIT here\n AND x > 1 /* nor\nOFFSET */",
        "SELECT id, max(x) AS highest FROM v GROUP BY id",
        "SELECT *, lag(x) OVER (PARTITION BY id ORDER BY day) FROM v",
        "SELECT limits, overall, randomised FROM v",
    ],
)
def test_a_query_about_each_patient_alone_is_taken(query):
    for table_format in ("duckdb", "sqlite"):
        check_query(query, table_format)


def test_a_query_is_for_databases_and_databases_want_one():
    for query, table_format in (("SELECT 1", "csv"), ("SELECT 1", "parquet"), (None, "duckdb"), (None, "sqlite")):
        with pytest.raises(ValueError, match="exactly where the format is duckdb or sqlite"):
            check_query(query, table_format)
    check_query(None, "csv")
    check_query(None, "parquet")
