//! ONNX inference by tract: a plan for one row, which is a quarter faster, and one with a symbolic
//! batch for many.
//!
//! A model file is untrusted input: its size, its inputs, outputs and operators are checked, data
//! outside the file is refused, and a panic inside the runtime is an error. Tree ensembles are not
//! run here: tract's own give wrong labels.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use prost::Message;
use tract_onnx::pb;
use tract_onnx::prelude::{
    Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, Tensor,
    TypedRunnableModel, tvec,
};
use tract_onnx::tract_hir::internal::{DatumType, InferenceModel, ToDim};

use super::{PredictError, Predictor, check_shape};

/// Largest model file in bytes.
pub const MODEL_BYTES_MAX: usize = 16 << 20;

/// Most operators in a graph.
pub const NODES_MAX: usize = 4096;

/// Most rows in one call.
pub const ROWS_MAX: usize = 1 << 20;

/// Why a graph was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// It is larger than [`MODEL_BYTES_MAX`].
    #[error("the graph has {bytes} bytes, the limit is {MODEL_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It takes another number of features.
    #[error("the graph takes rows of {found} features, {expected} are bound")]
    Width {
        /// How many it takes.
        found: i64,
        /// How many there are.
        expected: usize,
    },
    /// It is not ONNX, or more or other than this program runs.
    #[error("the graph cannot be read: {detail}")]
    Unreadable {
        /// What is wrong.
        detail: String,
    },
}

/// A graph, ready to run.
pub struct Onnx {
    one: Arc<TypedRunnableModel>,
    many: Arc<TypedRunnableModel>,
    width: usize,
}

impl Onnx {
    /// Reads a graph that takes rows of `width` features and gives one number a row.
    pub fn load(bytes: &[u8], width: usize) -> Result<Self, OnnxError> {
        if bytes.len() > MODEL_BYTES_MAX {
            return Err(OnnxError::TooLarge { bytes: bytes.len() });
        }
        let model = pb::ModelProto::decode(bytes).map_err(unreadable)?;
        check(&model, width)?;
        let prepared = |one_row| {
            catch_unwind(AssertUnwindSafe(|| prepare(&model, width, one_row)))
                .map_err(|_| OnnxError::Unreadable { detail: "the parser gave up".to_owned() })?
                .map_err(|error| OnnxError::Unreadable { detail: format!("{error:#}") })
        };
        let onnx = Self { one: prepared(true)?, many: prepared(false)?, width };
        for rows in [1, 2] {
            onnx.predict(&vec![0.0; rows * width], &mut vec![0.0; rows]).map_err(unreadable)?;
        }
        Ok(onnx)
    }

    fn run(&self, rows: &[f32], out: &mut [f64]) -> Result<(), String> {
        let input = Tensor::from_shape(&[out.len(), self.width], rows).map_err(|e| text(&e))?;
        let plan = if out.len() == 1 { &self.one } else { &self.many };
        let outputs = plan.run(tvec!(input.into_tvalue())).map_err(|e| text(&e))?;
        let output = outputs.first().ok_or("the graph gave no output")?;
        if output.len() != out.len() {
            return Err(format!("the graph gave {} numbers for {} rows", output.len(), out.len()));
        }
        if output.datum_type() == DatumType::F64 {
            let view = output.to_plain_array_view::<f64>().map_err(|e| text(&e))?;
            out.iter_mut().zip(view.iter()).for_each(|(out, value)| *out = *value);
        } else {
            let view = output.to_plain_array_view::<f32>().map_err(|e| text(&e))?;
            out.iter_mut().zip(view.iter()).for_each(|(out, value)| *out = f64::from(*value));
        }
        Ok(())
    }
}

impl Predictor for Onnx {
    fn width(&self) -> usize {
        self.width
    }

    fn predict(&self, rows: &[f32], out: &mut [f64]) -> Result<(), PredictError> {
        check_shape(rows.len(), out.len(), self.width)?;
        if out.is_empty() {
            return Ok(());
        }
        if out.len() > ROWS_MAX {
            let detail = format!("{} rows, the limit is {ROWS_MAX}", out.len());
            return Err(PredictError::Failed { detail });
        }
        // An operator that meets a value that no earlier row had may panic inside the runtime.
        catch_unwind(AssertUnwindSafe(|| self.run(rows, out)))
            .unwrap_or_else(|_| Err("the graph gave up".to_owned()))
            .map_err(|detail| PredictError::Failed { detail })
    }
}

impl std::fmt::Debug for Onnx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Onnx").field("width", &self.width).finish_non_exhaustive()
    }
}

fn check(model: &pb::ModelProto, width: usize) -> Result<(), OnnxError> {
    let refuse = |detail: String| Err(OnnxError::Unreadable { detail });
    let Some(graph) = &model.graph else { return refuse("it holds no graph".to_owned()) };
    if graph.node.is_empty() || graph.node.len() > NODES_MAX {
        return refuse(format!("it has {} operators, 1 to {NODES_MAX} are run", graph.node.len()));
    }
    let external = pb::tensor_proto::DataLocation::External as i32;
    if graph.initializer.iter().any(|tensor| tensor.data_location == Some(external)) {
        return refuse("it refers to data outside the file".to_owned());
    }
    let named = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
    let inputs: Vec<_> = graph.input.iter().filter(|input| !named(&input.name)).collect();
    let [input] = inputs.as_slice() else {
        return refuse(format!("it has {} inputs, 1 is expected", inputs.len()));
    };
    if graph.output.len() != 1 {
        return refuse(format!("it has {} outputs, 1 is expected", graph.output.len()));
    }
    match declared_width(input) {
        Some(found) if usize::try_from(found) != Ok(width) => {
            Err(OnnxError::Width { found, expected: width })
        }
        _ => Ok(()),
    }
}

/// The second dimension of a graph's input, where it states one.
fn declared_width(input: &pb::ValueInfoProto) -> Option<i64> {
    use pb::tensor_shape_proto::dimension::Value;
    let pb::type_proto::Value::TensorType(tensor) = input.r#type.as_ref()?.value.as_ref()?;
    match tensor.shape.as_ref()?.dim.get(1)?.value.as_ref()? {
        Value::DimValue(width) => Some(*width),
        Value::DimParam(_) => None,
    }
}

fn prepare(
    model: &pb::ModelProto,
    width: usize,
    one_row: bool,
) -> tract_onnx::prelude::TractResult<Arc<TypedRunnableModel>> {
    let mut model: InferenceModel = tract_onnx::onnx().model_for_proto_model(model)?;
    let rows = if one_row { 1.to_dim() } else { model.symbols.sym("N").to_dim() };
    let shape = tvec!(rows, width.to_dim());
    model.set_input_fact(0, InferenceFact::dt_shape(DatumType::F32, shape))?;
    model.into_optimized()?.into_runnable()
}

fn unreadable(error: impl std::fmt::Display) -> OnnxError {
    OnnxError::Unreadable { detail: error.to_string() }
}

fn text(error: &impl std::fmt::Display) -> String {
    error.to_string()
}
