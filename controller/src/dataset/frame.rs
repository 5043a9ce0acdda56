//! The rows of a dataset as one file: Parquet with typed columns, and the same rows as CSV.
//!
//! Parquet because pandas, DuckDB and every warehouse read it with its types; written with the low-level column writer, without
//! Arrow. Everything that could vary is fixed: the order of rows and columns, row groups, encodings, compression level, the name
//! of the writer. So the same rows give the same bytes, and their digest is the data's name; a test holds one such digest, so that
//! another version of the encoder is noticed before it renames anything. The rows also have a name that no encoder touches: the
//! digest of their CSV, which anybody can compute.
//!
//! What stays true: a file that was written is read back value for value, and nothing is read past the bounds.
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{ColumnPath, Type};

use crate::reference::table::{MAX_COLUMNS, MAX_ROWS};
use crate::retraining::dataset::Sample;

/// Columns after the features: the label, one over the probability it was captured with, when the application saw it, who
/// captured it, where it belonged, that probability, the number of the request at the device, the manifest that served it.
pub const EXTRA_COLUMNS: [&str; 8] = ["label", "weight", "at", "device", "cohort", "inclusion", "request", "served_by"];
/// Rows in one row group: a reader that wants a part of a file reads some megabytes.
const GROUP_ROWS: usize = 65_536;
/// Fast, and a further level gains some per cent.
const ZSTD_LEVEL: i32 = 3;
/// The most values in one file that is read: half a gigabyte in memory.
pub const MAX_VALUES: u64 = 128 << 20;
/// Key and value that mark a file as one of these.
const MARK: (&str, &str) = ("leeway.dataset", "1");
/// The longest name of a device, cohort or digest in a file that is read.
const MAX_NAME: usize = 256;

/// One row beside its features.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// The label.
    pub label: f32,
    /// One over `inclusion`.
    pub weight: f64,
    /// When, on the application's axis.
    pub at: Timestamp,
    /// The device that captured it.
    pub device: String,
    /// Its cohort.
    pub cohort: String,
    /// The probability it was captured with.
    pub inclusion: f32,
    /// Number of the request at the device.
    pub request: u64,
    /// Digest of the manifest that served it.
    pub served_by: String,
}

/// The rows of a dataset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Frame {
    /// Names of the features, in the order of the model's elements.
    pub features: Vec<String>,
    /// Values by feature, then row.
    pub values: Vec<Vec<f32>>,
    /// The rest of each row.
    pub facts: Vec<Fact>,
}

/// A column of a dataset's file, as its manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as Parquet calls it.
    pub r#type: String,
    /// What it is: `feature`, or the name of one of the others.
    pub role: String,
}

/// Rows that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The encoder or the file.
    #[error("the dataset's Parquet file cannot be read or written")]
    Parquet(#[from] ParquetError),
    /// Written by something else.
    #[error("the file is not a dataset of this program: {0}")]
    Foreign(String),
    /// Too big.
    #[error(
        "the file has {rows} rows and {columns} columns; at most {MAX_ROWS} rows, {MAX_COLUMNS} columns and {MAX_VALUES} values are read"
    )]
    Size {
        /// Rows.
        rows: u64,
        /// Columns.
        columns: usize,
    },
}

impl Frame {
    /// Samples in the order given.
    pub fn of(features: &[String], samples: &[&Sample]) -> Self {
        let column = |i: usize| samples.iter().map(|s| s.row.inputs.get(i).copied().unwrap_or(f32::NAN)).collect();
        let fact = |s: &&Sample| Fact {
            label: s.row.label.unwrap_or(f32::NAN),
            weight: 1.0 / f64::from(s.row.inclusion),
            at: s.row.at,
            device: s.device.to_string(),
            cohort: s.cohort.to_string(),
            inclusion: s.row.inclusion,
            request: s.row.request,
            served_by: s.manifest.to_string(),
        };
        Self { features: features.to_vec(), values: (0..features.len()).map(column).collect(), facts: samples.iter().map(fact).collect() }
    }

    /// The columns, described.
    pub fn columns(&self) -> Vec<Column> {
        let one = |name: &str, kind: &str, role: &str| Column { name: name.to_owned(), r#type: kind.to_owned(), role: role.to_owned() };
        let features = self.features.iter().map(|name| one(name, "float", "feature"));
        let kinds = ["float", "double", "timestamp[ms, UTC]", "string", "string", "float", "uint64", "string"];
        features.chain(EXTRA_COLUMNS.iter().zip(kinds).map(|(name, kind)| one(name, kind, name))).collect()
    }

    /// One Parquet file.
    pub fn to_parquet(&self) -> Result<Vec<u8>, FrameError> {
        let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(self.schema()?), Arc::new(properties()?))?;
        let rows = self.facts.len();
        let mut from = 0;
        while from < rows {
            let to = (from + GROUP_ROWS).min(rows);
            self.write_group(&mut writer, from, to)?;
            from = to;
        }
        Ok(writer.into_inner()?)
    }

    fn schema(&self) -> Result<Type, ParquetError> {
        let column = |name: &str, physical: Physical, logical: Option<LogicalType>| {
            let built = Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED).with_logical_type(logical);
            built.build().map(Arc::new)
        };
        let mut fields = self.features.iter().map(|name| column(name, Physical::FLOAT, None)).collect::<Result<Vec<_>, _>>()?;
        let text = || Some(LogicalType::String);
        let moment = LogicalType::timestamp(true, TimeUnit::MILLIS);
        let [label, weight, at, device, cohort, inclusion, request, served_by] = EXTRA_COLUMNS;
        fields.push(column(label, Physical::FLOAT, None)?);
        fields.push(column(weight, Physical::DOUBLE, None)?);
        fields.push(column(at, Physical::INT64, Some(moment))?);
        fields.push(column(device, Physical::BYTE_ARRAY, text())?);
        fields.push(column(cohort, Physical::BYTE_ARRAY, text())?);
        fields.push(column(inclusion, Physical::FLOAT, None)?);
        fields.push(column(request, Physical::INT64, Some(LogicalType::integer(64, false)))?);
        fields.push(column(served_by, Physical::BYTE_ARRAY, text())?);
        Type::group_type_builder("leeway_dataset").with_fields(fields).build()
    }

    fn write_group(&self, writer: &mut SerializedFileWriter<Vec<u8>>, from: usize, to: usize) -> Result<(), ParquetError> {
        let facts = self.facts.get(from..to).unwrap_or_default();
        let mut group = writer.next_row_group()?;
        let mut next = 0_usize;
        while let Some(mut column) = group.next_column()? {
            match next.checked_sub(self.features.len()) {
                None => {
                    let values = self.values.get(next).and_then(|values| values.get(from..to)).unwrap_or_default();
                    put::<FloatType>(&mut column, values)?;
                }
                Some(0) => put::<FloatType>(&mut column, &each(facts, |f| f.label))?,
                Some(1) => put::<DoubleType>(&mut column, &each(facts, |f| f.weight))?,
                Some(2) => put::<Int64Type>(&mut column, &each(facts, |f| f.at.as_millis()))?,
                Some(3) => put::<ByteArrayType>(&mut column, &each(facts, |f| text(&f.device)))?,
                Some(4) => put::<ByteArrayType>(&mut column, &each(facts, |f| text(&f.cohort)))?,
                Some(5) => put::<FloatType>(&mut column, &each(facts, |f| f.inclusion))?,
                // The same bits: Parquet has no unsigned physical type.
                Some(6) => put::<Int64Type>(&mut column, &each(facts, |f| f.request.cast_signed()))?,
                Some(_) => put::<ByteArrayType>(&mut column, &each(facts, |f| text(&f.served_by)))?,
            }
            column.close()?;
            next += 1;
        }
        group.close()?;
        Ok(())
    }

    /// The same rows as CSV: shortest decimals that read back as the same numbers, times as RFC 3339.
    pub fn to_csv(&self) -> Vec<u8> {
        let mut out = String::with_capacity((self.facts.len() + 1) * (self.features.len() + 16) * 8);
        let header: Vec<&str> = self.features.iter().map(String::as_str).chain(EXTRA_COLUMNS).collect();
        out.push_str(&header.join(","));
        out.push('\n');
        for (row, f) in self.facts.iter().enumerate() {
            for value in self.values.iter().filter_map(|values| values.get(row)) {
                let _ = write!(out, "{value},");
            }
            let _ = write!(out, "{},{},{},{},{},", f.label, f.weight, f.at, f.device, f.cohort);
            let _ = writeln!(out, "{},{},{}", f.inclusion, f.request, f.served_by);
        }
        out.into_bytes()
    }

    /// The name of the rows that no encoder touches: the digest of their CSV.
    pub fn content(&self) -> Digest {
        Digest::of(&self.to_csv())
    }

    /// Whether bytes are a file of [`Self::to_parquet`]'s form, by their magic; older datasets are CSV.
    pub fn is_parquet(bytes: &[u8]) -> bool {
        bytes.starts_with(b"PAR1")
    }

    /// Read a file that [`Self::to_parquet`] wrote.
    pub fn read(bytes: Bytes) -> Result<Self, FrameError> {
        let reader = SerializedFileReader::new(bytes)?;
        let meta = reader.metadata().file_metadata();
        let marked =
            meta.key_value_metadata().is_some_and(|all| all.iter().any(|kv| kv.key == MARK.0 && kv.value.as_deref() == Some(MARK.1)));
        let names: Vec<String> = meta.schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
        let rows = u64::try_from(meta.num_rows()).unwrap_or(u64::MAX);
        let width = names.len();
        if rows > MAX_ROWS as u64 || width > MAX_COLUMNS + EXTRA_COLUMNS.len() || rows.saturating_mul(width as u64) > MAX_VALUES {
            return Err(FrameError::Size { rows, columns: width });
        }
        let known = names.iter().rev().zip(EXTRA_COLUMNS.iter().rev()).filter(|(a, b)| a == *b).count();
        if !marked || known != EXTRA_COLUMNS.len() || meta.schema_descr().num_columns() != width {
            return Err(FrameError::Foreign(format!("its columns are {}", names.join(", ").chars().take(200).collect::<String>())));
        }
        let features: Vec<String> = names.into_iter().take(width - EXTRA_COLUMNS.len()).collect();
        let mut read = Columns { features: vec![Vec::new(); features.len()], ..Columns::default() };
        for group in 0..reader.num_row_groups() {
            read.group(&*reader.get_row_group(group)?, features.len())?;
        }
        read.frame(features, usize::try_from(rows).unwrap_or(0))
    }
}

fn properties() -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("leeway".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_dictionary_enabled(false)
        .set_key_value_metadata(Some(vec![KeyValue::new(MARK.0.to_owned(), MARK.1.to_owned())]));
    for name in ["label", "weight", "device", "cohort", "inclusion", "served_by"] {
        properties = properties.set_column_dictionary_enabled(ColumnPath::new(vec![name.to_owned()]), true);
    }
    Ok(properties.build())
}

fn text(name: &str) -> ByteArray {
    ByteArray::from(name)
}

fn each<T>(facts: &[Fact], value: impl Fn(&Fact) -> T) -> Vec<T> {
    facts.iter().map(value).collect()
}

fn put<T: DataType>(column: &mut SerializedColumnWriter<'_>, values: &[T::T]) -> Result<(), ParquetError> {
    column.typed::<T>().write_batch(values, None, None).map(drop)
}

/// What has been read, column by column.
#[derive(Default)]
struct Columns {
    features: Vec<Vec<f32>>,
    label: Vec<f32>,
    weight: Vec<f64>,
    at: Vec<i64>,
    device: Vec<ByteArray>,
    cohort: Vec<ByteArray>,
    inclusion: Vec<f32>,
    request: Vec<i64>,
    served_by: Vec<ByteArray>,
}

impl Columns {
    fn group(&mut self, group: &dyn parquet::file::reader::RowGroupReader, features: usize) -> Result<(), FrameError> {
        for (i, values) in self.features.iter_mut().enumerate() {
            take::<FloatType>(group, i, values)?;
        }
        take::<FloatType>(group, features, &mut self.label)?;
        take::<DoubleType>(group, features + 1, &mut self.weight)?;
        take::<Int64Type>(group, features + 2, &mut self.at)?;
        take::<ByteArrayType>(group, features + 3, &mut self.device)?;
        take::<ByteArrayType>(group, features + 4, &mut self.cohort)?;
        take::<FloatType>(group, features + 5, &mut self.inclusion)?;
        take::<Int64Type>(group, features + 6, &mut self.request)?;
        take::<ByteArrayType>(group, features + 7, &mut self.served_by)
    }

    fn frame(self, features: Vec<String>, rows: usize) -> Result<Frame, FrameError> {
        let short = || FrameError::Foreign("its columns are of different lengths".to_owned());
        if self.features.iter().any(|values| values.len() != rows) {
            return Err(short());
        }
        let fact = |i: usize| {
            Some(Fact {
                label: *self.label.get(i)?,
                weight: *self.weight.get(i)?,
                at: Timestamp::from_millis(*self.at.get(i)?),
                device: name(self.device.get(i)?)?,
                cohort: name(self.cohort.get(i)?)?,
                inclusion: *self.inclusion.get(i)?,
                request: self.request.get(i)?.cast_unsigned(),
                served_by: name(self.served_by.get(i)?)?,
            })
        };
        let facts = (0..rows).map(fact).collect::<Option<Vec<Fact>>>().ok_or_else(short)?;
        Ok(Frame { features, values: self.features, facts })
    }
}

fn name(bytes: &ByteArray) -> Option<String> {
    let text = std::str::from_utf8(bytes.data()).ok()?;
    (text.len() <= MAX_NAME).then(|| text.to_owned())
}

/// All values of a required column of one row group, if it has the type.
fn take<T: DataType>(group: &dyn parquet::file::reader::RowGroupReader, column: usize, into: &mut Vec<T::T>) -> Result<(), FrameError> {
    let described = group.metadata().column(column).column_descr();
    if described.physical_type() != T::get_physical_type() || described.max_def_level() != 0 || described.max_rep_level() != 0 {
        return Err(FrameError::Foreign(format!("column {:?} has another type", described.name())));
    }
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0).min(MAX_ROWS);
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(column)?);
    let wanted = into.len() + rows;
    while into.len() < wanted {
        let (records, ..) = reader.read_records(wanted - into.len(), None, None, into)?;
        if records == 0 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(rows: usize) -> Frame {
        let fact = |i: usize| Fact {
            label: (i % 2) as f32,
            weight: 1.0 / f64::from(0.3f32),
            at: Timestamp::from_millis(-86_400_000 * 40 + i as i64 * 1_234),
            device: format!("d-{}", i % 7),
            cohort: "coast".to_owned(),
            inclusion: 0.3,
            request: if i == 3 { u64::MAX } else { i as u64 },
            served_by: Digest::of(b"m").to_string(),
        };
        let values = vec![(0..rows).map(|i| i as f32 * 0.1).collect(), (0..rows).map(|i| -(i as f32) / 3.0).collect()];
        Frame { features: vec!["air pressure".into(), "wind.max".into()], values, facts: (0..rows).map(fact).collect() }
    }

    #[test]
    fn what_is_written_is_read_back_value_for_value() {
        for rows in [1, 2, 1000, GROUP_ROWS + 1] {
            let written = frame(rows);
            let bytes = written.to_parquet().unwrap();
            assert!(Frame::is_parquet(&bytes));
            let read = Frame::read(Bytes::from(bytes)).unwrap();
            assert!(read == written, "{rows} rows");
            assert_eq!(read.content(), written.content());
        }
    }

    /// Another version of the encoder may write other bytes. Then every dataset that is made again gets another name: this says so
    /// before it happens. The rows' own name (the digest of their CSV) must never change.
    #[test]
    fn the_same_rows_have_the_same_name_for_ever() {
        let bytes = frame(1000).to_parquet().unwrap();
        assert_eq!(bytes, frame(1000).to_parquet().unwrap());
        assert_eq!(Digest::of(&bytes).short(), "e7f9f44f8f8e");
        assert_eq!(frame(1000).content().short(), "04b54ba6f4a4");
        let mut other = frame(1000);
        other.values[1][999] = 0.5;
        assert_ne!(Digest::of(&other.to_parquet().unwrap()), Digest::of(&bytes));
    }

    #[test]
    fn csv_has_the_same_rows_and_old_columns_keep_their_places() {
        let text = String::from_utf8(frame(2).to_csv()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "air pressure,wind.max,label,weight,at,device,cohort,inclusion,request,served_by");
        assert!(
            lines[2].starts_with("0.1,-0.33333334,1,3.333333") && lines[2].contains(",1969-11-22T00:00:01.234Z,d-1,coast,0.3,1,sha256:"),
            "{}",
            lines[2]
        );
    }

    #[test]
    fn a_model_reads_its_columns_from_it() {
        use crate::reference::table::Table;
        let written = frame(50);
        let bytes = written.to_parquet().unwrap();
        let wanted = |name: &str| ["wind.max", "label", "weight"].contains(&name);
        let (parquet, csv) = (Table::parse_only(&bytes, wanted).unwrap(), Table::parse_only(&written.to_csv(), wanted).unwrap());
        assert_eq!(parquet.names, csv.names);
        for (a, b) in parquet.columns.iter().flatten().zip(csv.columns.iter().flatten()) {
            // CSV says the shortest decimal of the f32: the same number once it is an f32 again.
            assert_eq!(a.unwrap() as f32, b.unwrap() as f32);
        }
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        let bytes = frame(5).to_parquet().unwrap();
        for cut in [0, 4, 12, bytes.len() / 2, bytes.len() - 1] {
            assert!(Frame::read(Bytes::copy_from_slice(&bytes[..cut])).is_err(), "{cut}");
        }
        let mut foreign = frame(5);
        foreign.features.clear();
        foreign.values.clear();
        let schema = foreign.schema().unwrap();
        let plain = Arc::new(WriterProperties::builder().build());
        let unmarked = SerializedFileWriter::new(Vec::new(), Arc::new(schema), plain).unwrap().into_inner().unwrap();
        assert!(matches!(Frame::read(Bytes::from(unmarked)), Err(FrameError::Foreign(_))));
    }
}
