//! Arrays as NumPy saves them (`.npy`, formats 1 to 3), for references of images, sound, text and embeddings.
//!
//! Written here because what is needed is a header of one line and a run of numbers, while the crates for it carry a generic
//! deserialiser or `ndarray`. Only little-endian numbers in C order are read, never pickled objects: those run code. What stays
//! true: memory is bounded by the file's own length, and a header that promises more than there is, is refused.
use leeway_protocol::tensor::Elements;

/// How a file begins.
const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header; NumPy's own bound is ten thousand characters.
const MAX_HEADER: usize = 64 << 10;
/// The most axes.
const MAX_AXES: usize = 8;

/// An array whose first axis is the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Npy {
    /// Sizes, rows first.
    pub shape: Vec<usize>,
    values: Values,
}

#[derive(Debug, Clone, PartialEq)]
enum Values {
    F32(Vec<f32>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
}

/// A file that is not such an array.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NpyError {
    /// No `.npy` at all.
    #[error("it is not a .npy file: save the array with numpy.save")]
    Magic,
    /// A header that cannot be read.
    #[error("its header cannot be read: save the array with numpy.save")]
    Header,
    /// A type that is not read.
    #[error("its type {0:?} is not read: save it as float32, uint8, int8, int32, int64 or bool (x.astype('float32'))")]
    Type(String),
    /// Column-major.
    #[error("it is in Fortran order: save numpy.ascontiguousarray(x)")]
    Fortran,
    /// Cut off, or too much of it.
    #[error("it holds {got} bytes of numbers, its header promises {promised}: the file is damaged")]
    Length {
        /// There are.
        got: usize,
        /// There should be.
        promised: u128,
    },
    /// Nothing in it.
    #[error("it holds no rows")]
    Empty,
}

impl Npy {
    /// Read a whole file.
    pub fn parse(file: &[u8]) -> Result<Self, NpyError> {
        let rest = file.strip_prefix(MAGIC).ok_or(NpyError::Magic)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(NpyError::Header)?;
        let (length, rest) = match version[0] {
            1 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_le_bytes(*length)), rest)),
            2 | 3 => rest.split_first_chunk().map(|(length, rest)| (u32::from_le_bytes(*length) as usize, rest)),
            _ => None,
        }
        .filter(|(length, _)| *length <= MAX_HEADER)
        .ok_or(NpyError::Header)?;
        let (header, data) = rest.split_at_checked(length).ok_or(NpyError::Header)?;
        let header = std::str::from_utf8(header).map_err(|_| NpyError::Header)?;
        let shape = shape(header).ok_or(NpyError::Header)?;
        match field(header, "fortran_order") {
            Some(order) if order.starts_with("False") => {}
            // One axis has one order.
            Some(order) if order.starts_with("True") && shape.len() < 2 => {}
            Some(order) if order.starts_with("True") => return Err(NpyError::Fortran),
            _ => return Err(NpyError::Header),
        }
        let count = shape.iter().try_fold(1u128, |n, &size| n.checked_mul(size as u128)).ok_or(NpyError::Header)?;
        let kind = quoted(field(header, "descr").ok_or(NpyError::Header)?).ok_or_else(|| NpyError::Type("a record".to_owned()))?;
        let values = Values::read(kind, data, count)?;
        if count == 0 {
            return Err(NpyError::Empty);
        }
        Ok(Self { shape, values })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// A row, if there is such a one.
    pub fn row(&self, row: usize) -> Elements<'_> {
        let width = self.width();
        let range = row.saturating_mul(width)..row.saturating_add(1).saturating_mul(width);
        let found = match &self.values {
            Values::F32(v) => v.get(range).map(Elements::F32),
            Values::I8(v) => v.get(range).map(Elements::I8),
            Values::U8(v) => v.get(range).map(Elements::U8),
            Values::I32(v) => v.get(range).map(Elements::I32),
            Values::I64(v) => v.get(range).map(Elements::I64),
            Values::Bool(v) => v.get(range).map(Elements::Bool),
        };
        found.unwrap_or(Elements::Absent)
    }
}

impl Values {
    fn read(kind: &str, data: &[u8], count: u128) -> Result<Self, NpyError> {
        fn all<T, const N: usize>(data: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
            data.as_chunks::<N>().0.iter().map(|bytes| of(*bytes)).collect()
        }
        let size: u128 = match kind {
            "|b1" | "|i1" | "|u1" => 1,
            "<i2" | "<u2" => 2,
            "<i4" | "<u4" | "<f4" => 4,
            "<i8" | "<f8" => 8,
            _ => return Err(NpyError::Type(kind.chars().take(40).collect())),
        };
        let promised = count.saturating_mul(size);
        if promised != data.len() as u128 {
            return Err(NpyError::Length { got: data.len(), promised });
        }
        Ok(match kind {
            "|b1" => Self::Bool(data.iter().map(|b| *b != 0).collect()),
            "|i1" => Self::I8(data.iter().map(|b| b.cast_signed()).collect()),
            "|u1" => Self::U8(data.to_vec()),
            "<i2" => Self::I32(all(data, |b| i32::from(i16::from_le_bytes(b)))),
            "<u2" => Self::I32(all(data, |b| i32::from(u16::from_le_bytes(b)))),
            "<i4" => Self::I32(all(data, i32::from_le_bytes)),
            "<u4" => Self::I64(all(data, |b| i64::from(u32::from_le_bytes(b)))),
            "<i8" => Self::I64(all(data, i64::from_le_bytes)),
            "<f4" => Self::F32(all(data, f32::from_le_bytes)),
            "<f8" => Self::F32(all(data, |b| f64::from_le_bytes(b) as f32)),
            other => return Err(NpyError::Type(other.to_owned())),
        })
    }
}

/// What stands behind a key of the header, a Python dictionary of one line.
fn field<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let at = header.find(&format!("'{key}'"))?;
    let rest = header.get(at + key.len() + 2..)?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\'')?;
    text.get(..text.find('\'')?)
}

fn shape(header: &str) -> Option<Vec<usize>> {
    let text = field(header, "shape")?.strip_prefix('(')?;
    let sizes = text.get(..text.find(')')?)?;
    let sizes: Vec<usize> =
        sizes.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.trim_end_matches('L').parse().ok()).collect::<Option<_>>()?;
    ((1..=MAX_AXES).contains(&sizes.len())).then_some(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = [MAGIC, &[version, 0]].concat();
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn header(kind: &str, shape: &str) -> String {
        format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}          \n")
    }

    #[test]
    fn rows_of_every_type_are_read() {
        let floats: Vec<u8> = [1.5f32, -2.0, 0.25, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let npy = Npy::parse(&file(1, &header("<f4", "(2, 2)"), &floats)).unwrap();
        assert_eq!((npy.rows(), npy.width(), npy.row(1)), (2, 2, Elements::F32(&[0.25, 4.0])));
        assert_eq!(npy.row(2), Elements::Absent);
        let doubles: Vec<u8> = [0.5f64].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(Npy::parse(&file(2, &header("<f8", "(1, 1)"), &doubles)).unwrap().row(0), Elements::F32(&[0.5]));
        let bytes = Npy::parse(&file(3, &header("|u1", "(1, 2, 1, 2)"), &[1, 2, 3, 255])).unwrap();
        assert_eq!(bytes.row(0), Elements::U8(&[1, 2, 3, 255]));
        let labels =
            Npy::parse(&file(1, &header("<i8", "(2,)"), &[7, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255])).unwrap();
        assert_eq!((labels.rows(), labels.width(), labels.row(1).at(0)), (2, 1, Some(-1.0)));
    }

    #[test]
    fn damage_and_objects_are_refused_without_believing_the_header() {
        let good = file(1, &header("<f4", "(2, 1)"), &[0; 8]);
        for cut in 0..good.len() {
            assert!(Npy::parse(&good[..cut]).is_err(), "{cut}");
        }
        let huge = file(1, &header("<f4", "(18446744073709551615, 18446744073709551615)"), &[0; 8]);
        assert!(matches!(Npy::parse(&huge), Err(NpyError::Length { got: 8, .. } | NpyError::Header)));
        for (kind, shape, problem) in [
            ("|O", "(1,)", "int64 or bool"),
            (">f4", "(2,)", "astype"),
            ("<f2", "(4,)", "float32"),
            ("<f4", "()", "header"),
            ("<f4", "(0, 3)", "damaged"),
            ("<f4", "(-1,)", "header"),
        ] {
            let error = Npy::parse(&file(1, &header(kind, shape), &[0; 8])).unwrap_err().to_string();
            assert!(error.contains(problem), "{kind} {shape}: {error}");
        }
        let fortran = header("<f4", "(2, 1)").replace("False", "True");
        assert_eq!(Npy::parse(&file(1, &fortran, &[0; 8])), Err(NpyError::Fortran));
        assert_eq!(Npy::parse(&file(1, &header("<f4", "(0, 3)"), &[])), Err(NpyError::Empty));
        let record = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }";
        assert!(matches!(Npy::parse(&file(1, record, &[0; 4])), Err(NpyError::Type(_))));
    }
}
