"""Sources of rows: CSV, Parquet, Arrow, DataFrames and the raw AliExpress layout."""
