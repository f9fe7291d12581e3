"""Where rows come from: CSV, Parquet, DataFrames, and raw AliExpress layouts."""
