//! ArrayFeatureExtractor: columns by their places. The engine's gives a tensor of another rank than the format's when the places
//! are not a vector, and finds out at the first inference that a place is outside.
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::array::Gather;
use tract_onnx::tract_hir::internal::*;

#[derive(Debug, Clone)]
struct ArrayFeatureExtractor;

pub(super) fn build(_: &ParsingContext, _: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(ArrayFeatureExtractor), vec![]))
}

impl Expansion for ArrayFeatureExtractor {
    fn name(&self) -> StaticName {
        "ArrayFeatureExtractor".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_input_arity(inputs, 2)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.given_2(&inputs[0].shape, &inputs[1].shape, move |s, data, places| {
            let count: TDim = places.iter().product();
            // A vector is one row, and stays a row.
            let mut shape: TVec<TDim> =
                if data.len() == 1 { tvec!(1.to_dim()) } else { data.iter().take(data.len().max(1) - 1).cloned().collect() };
            shape.push(count);
            s.equals(&outputs[0].shape, shape)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let (data, places) = (model.outlet_fact(inputs[0])?.clone(), model.outlet_fact(inputs[1])?.clone());
        ensure!(data.rank() > 0, "ArrayFeatureExtractor takes rows of features, not a single number");
        let mut data_wire = inputs[0];
        if data.rank() == 1 {
            data_wire = model.wire_node(format!("{prefix}.row"), AxisOp::Add(0), &[data_wire])?[0];
        }
        let (axis, columns) = (data.rank().max(2) - 1, data.shape.last().and_then(|d| d.as_i64()).unwrap_or(0));
        let places_wire = match &places.konst {
            Some(konst) => {
                let flat = konst.cast_to::<i64>()?.into_owned().into_shape(&[konst.len()])?;
                let outside = flat.try_as_plain_ram()?.as_slice::<i64>()?.iter().copied().find(|at| !(0..columns).contains(at));
                if let Some(outside) = outside {
                    bail!("ArrayFeatureExtractor asks for feature {outside} of {columns}");
                }
                model.add_const(format!("{prefix}.places"), flat)?
            }
            // Places that an inference finds; the engine refuses those outside.
            None => {
                let count: TDim = places.shape.iter().product();
                let flat = AxisOp::Reshape(0, places.shape.to_tvec(), tvec!(count));
                model.wire_node(format!("{prefix}.places"), flat, &[inputs[1]])?[0]
            }
        };
        model.wire_node(prefix, Gather::new(axis), &[data_wire, places_wire])
    }
}
