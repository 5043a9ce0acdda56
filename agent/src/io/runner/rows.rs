//! Rows of a CSV file as requests: plain numbers, one row per line, no quoting.
//!
//! With a header that names every input feature of the manifest's reference, columns are found by name and others (labels,
//! dates) are ignored; otherwise the columns are the elements of the free inputs in order.
use leeway_protocol::manifest::Manifest;
use leeway_protocol::profile::Source;
use leeway_protocol::tensor::{Tensor, TensorSpec};

use super::numbers::Numbers;

/// How the columns of a file become inputs.
#[derive(Debug)]
pub(super) struct Columns {
    specs: Vec<TensorSpec>,
    /// Column of each element, one input after the other.
    places: Vec<usize>,
}

/// One row: a tensor per free input, and the elements that had no value.
pub(super) type Row = (Vec<Tensor>, Vec<(usize, usize)>);

impl Columns {
    /// Read the first line; whether it is a header.
    pub(super) fn new(manifest: &Manifest, first: &str) -> Result<(Self, bool), String> {
        let fields: Vec<&str> = fields(first).collect();
        let specs: Vec<TensorSpec> = manifest.free_inputs().map(|(_, spec)| spec.clone()).collect();
        let need: usize = specs.iter().filter_map(TensorSpec::elements).sum();
        let is_header = fields.iter().any(|f| value(f).is_none());
        if is_header && let Some(places) = by_name(manifest, &fields) {
            return Ok((Self { specs, places }, true));
        }
        if fields.len() != need {
            return Err(format!(
                "the file has {} columns, the model takes {need} values per row; name the columns after the manifest's features to choose among more",
                fields.len()
            ));
        }
        Ok((Self { specs, places: (0..need).collect() }, is_header))
    }

    pub(super) fn row(&self, line: &str) -> Result<Row, String> {
        let fields: Vec<&str> = fields(line).collect();
        let mut places = self.places.iter();
        let (mut inputs, mut nulls) = (Vec::new(), Vec::new());
        for (at, spec) in self.specs.iter().enumerate() {
            let mut json = String::from("[");
            for (element, &column) in places.by_ref().take(spec.elements().unwrap_or(0)).enumerate() {
                let field = *fields.get(column).ok_or_else(|| format!("column {} is missing", column + 1))?;
                let value = value(field).ok_or_else(|| format!("column {}: {field:?} is not a number", column + 1))?;
                json.push_str(if element > 0 { "," } else { "" });
                json.push_str(value);
            }
            json.push(']');
            let numbers: Numbers = serde_json::from_str(&json).map_err(|e| e.to_string())?;
            let (tensor, missing) = numbers.tensor(spec)?;
            inputs.push(tensor);
            nulls.extend(missing.into_iter().map(|element| (at, element)));
        }
        Ok((inputs, nulls))
    }
}

fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.trim_end_matches(['\r', '\n']).split(',').map(|f| f.trim().trim_matches('"'))
}

/// The field as a JSON value: a number, or null where there is none.
fn value(field: &str) -> Option<&str> {
    if field.is_empty() || ["nan", "null", "na"].contains(&field.to_ascii_lowercase().as_str()) {
        return Some("null");
    }
    // A plus sign and a bare point are CSV but not JSON.
    let plain = field.strip_prefix('+').unwrap_or(field);
    serde_json::from_str::<f64>(plain).ok().map(|_| plain)
}

/// Columns by the names of the reference's input features, if every element has one.
fn by_name(manifest: &Manifest, header: &[&str]) -> Option<Vec<usize>> {
    let mut places = Vec::new();
    for (tensor, spec) in manifest.free_inputs() {
        for index in 0..spec.elements()? {
            let feature = manifest.reference.features.iter().find(|f| f.source == Source::Input { tensor, index })?;
            places.push(header.iter().position(|name| *name == feature.name)?);
        }
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use leeway_protocol::profile::Cuts;

    use super::*;
    use crate::recorder::tests::manifest_with;

    #[test]
    fn columns_by_order_and_by_name() {
        let cuts = || Cuts::Numeric { edges: vec![0.0, 1.0] };
        let feature = |index| (Source::Input { tensor: 0, index }, cuts());
        let manifest = manifest_with(vec![feature(0), feature(1)]);
        let (columns, header) = Columns::new(&manifest, "1,2").unwrap();
        assert!(!header);
        assert_eq!(columns.row("+3.5, -4e2\r\n").unwrap().0[0].to_f64(), [3.5, -400.0]);
        assert_eq!(columns.row("NaN,").unwrap().1, [(0, 0), (0, 1)]);
        let (named, header) = Columns::new(&manifest, "label,f1,f0").unwrap();
        assert!(header);
        assert_eq!(named.row("9,1,2").unwrap().0[0].to_f64(), [2.0, 1.0]);
        assert!(named.row("9,1").unwrap_err().contains("column 3 is missing"));
        assert!(named.row("9,x,1").unwrap_err().contains("column 2: \"x\" is not a number"));
        assert!(Columns::new(&manifest, "a,b").unwrap().1, "a header of other names, right in number");
        assert!(Columns::new(&manifest, "a,b,c").unwrap_err().contains("3 columns, the model takes 2"));
    }
}
