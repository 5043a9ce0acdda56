//! The reference data: a table with a column per element, or arrays with a row per first axis, one for each input.
use std::path::Path;

use leeway_controller::reference::npy::Npy;
use leeway_controller::reference::table::Table;
use leeway_protocol::digest::Digest;
use leeway_protocol::tensor::{DType, Elements, TensorSpec};

use super::draft::Shape;
use crate::failure::{During, Failure, Outcome};

/// Bytes of reference data that are read: a device's reference needs tens of thousands of rows, and this is held in memory.
const MAX_BYTES: u64 = 8 << 30;

/// Where the rows are.
#[derive(Debug)]
pub(super) enum Data {
    /// CSV or parquet; and the columns that are the inputs' elements, in order, once the inputs are known.
    Table(Table, Vec<String>),
    /// `.npy`.
    Arrays(Arrays),
}

/// An array per free input, in the inputs' order once they are known.
#[derive(Debug)]
pub(super) struct Arrays {
    named: Vec<(String, Npy)>,
    labels: Option<Vec<Option<f64>>>,
}

impl Data {
    /// Read a file, or a folder of `.npy` files named after the inputs (and the label); with the digest of what was read.
    pub(super) fn read(path: &Path, label: Option<&str>) -> Outcome<(Self, Digest)> {
        let shown = format!("reading {}", path.display());
        if !path.is_dir() {
            let bytes = read(path)?;
            let digest = Digest::of(&bytes);
            if path.extension().is_none_or(|e| e != "npy") {
                return Ok((Self::Table(Table::parse(&bytes).during(&shown)?, Vec::new()), digest));
            }
            if label.is_some() {
                let failure = Failure::new("one array has no place for the label").code(2);
                return Err(failure.help("put it beside the input's in a folder, as LABEL.npy, and give the folder to --reference"));
            }
            let npy = Npy::parse(&bytes).during(&shown)?;
            return Ok((Self::Arrays(Arrays { named: vec![(String::new(), npy)], labels: None }), digest));
        }
        let mut files: Vec<_> = std::fs::read_dir(path).during(&shown)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "npy"));
        files.sort();
        let (mut named, mut labels, mut digests) = (Vec::new(), None, String::new());
        for file in &files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = read(file)?;
            digests += &format!("{}  {name}.npy\n", Digest::of(&bytes).hex());
            let npy = Npy::parse(&bytes).during(format!("reading {}", file.display()))?;
            if Some(name.as_str()) == label {
                labels = Some((0..npy.rows()).map(|row| npy.row(row).at(0).filter(|x| x.is_finite())).collect());
            } else {
                named.push((name, npy));
            }
        }
        if label.is_some() && labels.is_none() {
            let name = label.unwrap_or_default();
            return Err(Failure::new(format!("there is no {name}.npy in {}, which --label-column names", path.display())).code(2));
        }
        Ok((Self::Arrays(Arrays { named, labels }), Digest::of(digests.as_bytes())))
    }

    /// Rows.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Table(table, _) => table.rows(),
            Self::Arrays(arrays) => arrays.named.first().map_or(0, |(_, npy)| npy.rows()),
        }
    }

    /// The truth of every row.
    pub(super) fn labels(&self, column: &str) -> Outcome<&[Option<f64>]> {
        match self {
            Self::Table(table, _) => Ok(table.column(column)?),
            Self::Arrays(arrays) => Ok(arrays.labels.as_deref().unwrap_or(&[])),
        }
    }

    /// Every element of the free inputs of a row, one input after the other; `None` is a missing value.
    pub(super) fn values(&self, row: usize) -> Vec<Option<f64>> {
        match self {
            Self::Table(table, columns) => columns.iter().map(|c| table.column(c).ok()?.get(row).copied().flatten()).collect(),
            Self::Arrays(arrays) => {
                let all = |(_, npy): &(String, Npy)| {
                    let elements = npy.row(row);
                    (0..elements.len()).map(|i| elements.at(i).filter(|x| x.is_finite())).collect::<Vec<_>>()
                };
                arrays.named.iter().flat_map(all).collect()
            }
        }
    }

    /// The rows of the `at`-th free input, whose elements begin at `first` in [`Self::values`], one after the other.
    pub(super) fn each(&self, at: usize, first: usize, spec: &TensorSpec, mut see: impl FnMut(&Elements<'_>)) {
        let elements = spec.elements().unwrap_or(0);
        for row in 0..self.rows() {
            match self {
                Self::Arrays(arrays) => see(&arrays.named.get(at).map_or(Elements::Absent, |(_, npy)| npy.row(row))),
                Self::Table(..) => {
                    let values = self.values(row);
                    let own = values.get(first..first + elements).unwrap_or(&[]);
                    // A row with a hole has no figures, here as on the device.
                    match own.iter().copied().collect::<Option<Vec<f64>>>() {
                        Some(own) if matches!(spec.dtype, DType::I32 | DType::I64) => {
                            see(&Elements::I64(&own.iter().map(|x| *x as i64).collect::<Vec<_>>()));
                        }
                        Some(own) => see(&Elements::F32(&own.iter().map(|x| *x as f32).collect::<Vec<_>>())),
                        None => see(&Elements::Absent),
                    }
                }
            }
        }
    }

    /// Find the data of every free input, or say what does not fit.
    pub(super) fn fit(self, features: &[String], label: Option<&str>, shape: &Shape) -> Outcome<Self> {
        match self {
            Self::Table(table, _) => {
                let columns = super::draft::columns(features, label, shape, &table)?;
                Ok(Self::Table(table, columns))
            }
            Self::Arrays(arrays) => arrays.fit(shape).map(Self::Arrays),
        }
    }
}

impl Arrays {
    fn fit(mut self, shape: &Shape) -> Outcome<Self> {
        let mut named = Vec::new();
        let free: Vec<&TensorSpec> = shape.free().map(|(_, spec)| spec).collect();
        let have: Vec<String> = self.named.iter().map(|(name, _)| format!("{name}.npy")).collect();
        for spec in &free {
            // A single file has no name to be found by.
            let at = self.named.iter().position(|(name, _)| *name == spec.name || (name.is_empty() && free.len() == 1));
            let Some(at) = at else {
                let failure =
                    Failure::new(format!("there is no {}.npy for input {:?}; there is {}", spec.name, spec.name, have.join(", ")));
                return Err(failure.code(2).help("give --reference a folder with one .npy per input, each with a row per first axis"));
            };
            let (_, npy) = self.named.remove(at);
            let need = spec.elements().unwrap_or(0);
            if npy.width() != need {
                let problem = format!("{:?} has {} values a row, shape {:?}; the input takes {need}", spec.name, npy.width(), npy.shape);
                return Err(Failure::new(problem).code(2).help("the first axis is the rows; the others are one row's shape"));
            }
            named.push((spec.name.clone(), npy));
        }
        let mut rows: Vec<usize> = named.iter().map(|(_, npy)| npy.rows()).chain(self.labels.as_ref().map(Vec::len)).collect();
        rows.dedup();
        if rows.len() > 1 {
            return Err(Failure::new(format!("the arrays have different numbers of rows: {rows:?}")).code(2));
        }
        Ok(Self { named, labels: self.labels })
    }
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    let shown = format!("reading {}", path.display());
    let length = std::fs::metadata(path).during(&shown)?.len();
    if length > MAX_BYTES {
        return Err(Failure::new(format!("{} has {length} bytes, the bound is {MAX_BYTES}: give a sample of it", path.display())).code(2));
    }
    std::fs::read(path).during(&shown)
}
