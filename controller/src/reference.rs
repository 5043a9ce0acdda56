//! (Being written by the lead: reference profile and calibration from tables of data; CSV and parquet in `reference/table.rs`.)
