//! Quantile sketches of what a line's devices captured, for whoever makes the next reference elsewhere.
use axum::Json;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leeway_protocol::ids::Line;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::name;
use super::resource::sketch::{Sketch, Sketches};
use crate::io::sketches::{ColumnSketch, LineSketches};

/// KLL sketches of every input, out of captured rows. They hold raw values, so looking is not enough to have them.
#[utoipa::path(get, path = "/api/v1/models/{line}/sketches", tag = "models", operation_id = "listSketches", params(("line" = String, Path, description = "The line")),
    responses((status = 200, body = Sketches), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn list(State(web): State<Web>, Path(line): Path<String>) -> Result<Json<Sketches>, Problem> {
    let line = name::<Line>(&line)?;
    let LineSketches { read, used, columns } = web.controller().sketches(&line).await?;
    let sentence = format!(
        "{used} of {read} captured rows, thinned so that each stands for the same number of inferences; a sketch holds its least, greatest \
         and other raw values, so pass it on as you would the rows"
    );
    let features = columns.iter().map(sketch).collect();
    Ok(Json(Sketches { line: line.to_string(), rows_read: read, rows_used: used, features, sentence }))
}

fn sketch(column: &ColumnSketch) -> Sketch {
    Sketch {
        name: column.name.clone(),
        n: column.n,
        missing: column.missing,
        rank_error: column.rank_error,
        quantiles: column.quantiles.clone(),
        format: "kll-f32".to_owned(),
        digest: column.digest().to_string(),
        bytes: STANDARD.encode(&column.bytes),
    }
}
