//! A table of numbers with named columns, read from CSV or parquet bytes.
//!
//! Empty cells, `null`, `NA` and `NaN` are missing values; anything else must be a number, and an error names row and column.
use bytes::Bytes;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;

/// The most rows that are read: a reference needs tens of thousands, and memory stays bounded.
pub const MAX_ROWS: usize = 5_000_000;
/// The most columns.
pub const MAX_COLUMNS: usize = 4096;

/// Columns of something else than numbers that are passed over.
const MAX_OTHERS: usize = 32;
/// The most values: two gigabytes.
pub const MAX_CELLS: usize = 128 << 20;

/// Columns of equal length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// Names, in order.
    pub names: Vec<String>,
    /// Values by column, then row.
    pub columns: Vec<Vec<Option<f64>>>,
}

/// A table that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Not CSV.
    #[error("the data is not CSV with a header line")]
    Csv(#[from] csv::Error),
    /// Not parquet.
    #[error("the data is not a parquet file")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Neither by content.
    #[error("row {row}, column {column:?}: {cell:?} is not a number; leave the column out, or turn categories into numbers")]
    Cell {
        /// Row, from 1.
        row: usize,
        /// Column name.
        column: String,
        /// What is there.
        cell: String,
    },
    /// Too big, or nothing.
    #[error(
        "the table has {rows} rows and {columns} columns; between 1 and {MAX_ROWS} rows, {MAX_COLUMNS} columns and {MAX_CELLS} values are read"
    )]
    Size {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
    /// A column that is not there.
    #[error("there is no column {wanted:?}; the table has {have}")]
    NoColumn {
        /// Asked for.
        wanted: String,
        /// There is.
        have: String,
    },
}

impl Table {
    /// Read every column of parquet (by its magic bytes) or CSV.
    pub fn parse(bytes: &[u8]) -> Result<Self, TableError> {
        Self::parse_only(bytes, |_| true)
    }

    /// Read the columns whose name is `wanted`; the others may hold anything.
    pub fn parse_only(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Self, TableError> {
        let table = if bytes.starts_with(b"PAR1") { Self::from_parquet(bytes, wanted)? } else { Self::from_csv(bytes, wanted)? };
        let (rows, columns) = (table.rows(), table.columns.len());
        if rows == 0 || rows > MAX_ROWS || columns > MAX_COLUMNS {
            return Err(TableError::Size { rows, columns });
        }
        Ok(table)
    }

    /// Read every column that holds nothing but numbers and missing values, and name those that do not.
    pub fn parse_numbers(bytes: &[u8]) -> Result<(Self, Vec<String>), TableError> {
        let header = Self::header(bytes)?;
        let mut others = std::collections::BTreeSet::new();
        loop {
            match Self::parse_only(bytes, |name| !others.contains(name)) {
                // Each turn finds one more column that is no column of numbers, mostly in its first row.
                Err(TableError::Cell { column, .. }) if others.len() < MAX_OTHERS && others.insert(column.clone()) => {}
                Ok(table) => return Ok((table, header.into_iter().filter(|name| others.contains(name)).collect())),
                Err(error) => return Err(error),
            }
        }
    }

    fn header(bytes: &[u8]) -> Result<Vec<String>, TableError> {
        if !bytes.starts_with(b"PAR1") {
            let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
            return Ok(reader.headers()?.iter().map(ToOwned::to_owned).collect());
        }
        let reader = SerializedFileReader::new(Bytes::copy_from_slice(bytes))?;
        Ok(reader.metadata().file_metadata().schema().get_fields().iter().map(|field| field.name().to_owned()).collect())
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }

    /// A column by name.
    pub fn column(&self, name: &str) -> Result<&[Option<f64>], TableError> {
        let found = self.names.iter().position(|n| n == name).and_then(|at| self.columns.get(at));
        found.map(Vec::as_slice).ok_or_else(|| TableError::NoColumn { wanted: name.to_owned(), have: self.names.join(", ") })
    }

    /// An empty table of the wanted columns, and for each column of the source its place in it.
    fn empty<'a>(source: impl Iterator<Item = &'a str>, wanted: impl Fn(&str) -> bool) -> Result<(Self, Vec<Option<usize>>), TableError> {
        let (mut names, mut places) = (Vec::new(), Vec::new());
        for name in source {
            places.push(wanted(name).then_some(names.len()));
            if wanted(name) {
                names.push(name.to_owned());
            }
        }
        if names.len() > MAX_COLUMNS {
            return Err(TableError::Size { rows: 0, columns: names.len() });
        }
        let columns = vec![Vec::new(); names.len()];
        Ok((Self { names, columns }, places))
    }

    fn push(&mut self, column: usize, cell: Result<Option<f64>, String>) -> Result<(), TableError> {
        let row = self.columns.get(column).map_or(0, Vec::len) + 1;
        if row > MAX_ROWS || row.saturating_mul(self.columns.len()) > MAX_CELLS {
            return Err(TableError::Size { rows: row, columns: self.columns.len() });
        }
        let name = || self.names.get(column).cloned().unwrap_or_default();
        let value = cell.map_err(|cell| TableError::Cell { row, column: name(), cell })?;
        if let Some(values) = self.columns.get_mut(column) {
            values.push(value);
        }
        Ok(())
    }

    fn from_csv(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Self, TableError> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
        let (mut table, places) = Self::empty(reader.headers()?.iter(), wanted)?;
        for record in reader.records() {
            for (cell, place) in record?.iter().zip(&places) {
                if let Some(column) = place {
                    table.push(*column, number(cell))?;
                }
            }
        }
        Ok(table)
    }

    fn from_parquet(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Self, TableError> {
        let reader = SerializedFileReader::new(Bytes::copy_from_slice(bytes))?;
        let schema = reader.metadata().file_metadata().schema();
        let (mut table, places) = Self::empty(schema.get_fields().iter().map(|f| f.name()), wanted)?;
        for row in reader.get_row_iter(None)? {
            for ((_, field), place) in row?.get_column_iter().zip(&places) {
                if let Some(column) = place {
                    table.push(*column, field_number(field))?;
                }
            }
        }
        Ok(table)
    }
}

fn number(cell: &str) -> Result<Option<f64>, String> {
    match cell {
        "" | "null" | "NA" | "NaN" | "nan" => Ok(None),
        "true" => Ok(Some(1.0)),
        "false" => Ok(Some(0.0)),
        text => text.parse().map(Some).map_err(|_| text.chars().take(40).collect()),
    }
}

fn field_number(field: &Field) -> Result<Option<f64>, String> {
    match field {
        Field::Null => Ok(None),
        Field::Bool(b) => Ok(Some(f64::from(u8::from(*b)))),
        Field::Byte(n) => Ok(Some(f64::from(*n))),
        Field::Short(n) => Ok(Some(f64::from(*n))),
        Field::Int(n) => Ok(Some(f64::from(*n))),
        Field::Long(n) => Ok(Some(*n as f64)),
        Field::UByte(n) => Ok(Some(f64::from(*n))),
        Field::UShort(n) => Ok(Some(f64::from(*n))),
        Field::UInt(n) => Ok(Some(f64::from(*n))),
        Field::ULong(n) => Ok(Some(*n as f64)),
        Field::Float(x) => Ok(Some(f64::from(*x))),
        Field::Double(x) => Ok(Some(*x)),
        Field::Str(text) => number(text),
        other => Err(other.to_string().chars().take(40).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_cells_are_numbers_or_missing() {
        let table = Table::parse(b"a, b\n1,2.5\n,NaN\ntrue,-1e3\n").unwrap();
        assert_eq!(table.column("a").unwrap(), [Some(1.0), None, Some(1.0)]);
        assert_eq!(table.column("b").unwrap(), [Some(2.5), None, Some(-1000.0)]);
        assert!(table.column("c").unwrap_err().to_string().contains("a, b"));
        let some = Table::parse_only(b"at,x\n1949-01-01T00:00:00Z,7\n", |name| name == "x").unwrap();
        assert_eq!((some.names.len(), some.column("x").unwrap()), (1, [Some(7.0)].as_slice()));
    }

    #[test]
    fn columns_that_are_no_numbers_are_passed_over_by_name() {
        let (table, others) = Table::parse_numbers(b"day,x,note,y\n1949-01-01,7,,1\n1949-01-02,8,wet,0\n").unwrap();
        assert_eq!((table.names.join(","), others.join(",")), ("x,y".to_owned(), "day,note".to_owned()));
        assert_eq!(table.column("y").unwrap(), [Some(1.0), Some(0.0)]);
        let many: Vec<String> = (0..=MAX_OTHERS).map(|i| format!("c{i}")).collect();
        let text = format!("{}\n{}\n", many.join(","), vec!["word"; many.len()].join(","));
        assert!(matches!(Table::parse_numbers(text.as_bytes()), Err(TableError::Cell { .. })));
        assert!(Table::parse_numbers(b"day\nmonday\n").is_err(), "nothing is left");
    }

    #[test]
    fn rubbish_is_refused_with_its_place() {
        let wrong = Table::parse(b"a,b\n1,2\n3,blue\n").unwrap_err().to_string();
        assert!(wrong.contains("row 2") && wrong.contains("\"b\"") && wrong.contains("blue"), "{wrong}");
        assert!(Table::parse(b"a,b\n1\n").is_err());
        assert!(Table::parse(b"a,b\n").is_err());
        assert!(Table::parse(b"PAR1 and then rubbish").is_err());
        assert!(Table::parse(&[0xff, 0xfe, b'\n', 0xff]).is_err());
    }

    #[test]
    fn parquet_reads_like_csv() {
        use parquet::data_type::DoubleType;
        use parquet::file::properties::WriterProperties;
        use parquet::file::writer::SerializedFileWriter;
        use parquet::schema::parser::parse_message_type;
        use std::sync::Arc;
        let schema = Arc::new(parse_message_type("message t { OPTIONAL DOUBLE x; }").unwrap());
        let mut bytes = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(WriterProperties::default())).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&[1.5, 2.5], Some(&[1, 0, 1]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        assert_eq!(Table::parse(&bytes).unwrap().column("x").unwrap(), [Some(1.5), None, Some(2.5)]);
    }
}
