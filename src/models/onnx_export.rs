//! Writing a linear model as an ONNX graph that any runtime reads.
//!
//! `features` f32 \[N, width\] → Gather → Max, Min (clamp to the segment) → Where `IsNaN` (impute)
//! → Cast to f64 → `MatMul`, Add → sigmoid or exp → f64 \[N, 1\]. Scaling and calibration are
//! lines, so they are folded into the weights, and so is the minus sign of a sigmoid. Arithmetic
//! behind the clamp is f64, which keeps the graph within 1e-6 of the form that was trained; the
//! sigmoid is spelt out because runtimes differ in offering it for f64. Trees are not written here.

use prost::Message;
use tract_onnx::pb;

use super::linear::{Folded, Head, Linear};

/// The ONNX operator set; old enough for every runtime in use.
const OPSET: i64 = 13;

/// The ONNX file format version that goes with it.
const IR_VERSION: i64 = 7;

/// Name of the graph's input.
pub const INPUT: &str = "features";

/// Name of the graph's output.
pub const OUTPUT: &str = "prediction";

/// The graph, encoded; `Err` is one sentence.
pub fn encode(linear: &Linear<'_>) -> Result<Vec<u8>, String> {
    let mut graph = Graph::default();
    let line = graph.line(linear, &linear.fold()?);
    match linear.head {
        Head::Sigmoid => graph.sigmoid(&line),
        Head::Exp => graph.node("Exp", &[&line], OUTPUT, vec![]),
    }
    let value = |name: &str, data: pb::tensor_proto::DataType, width: usize| {
        use pb::tensor_shape_proto::{Dimension, dimension::Value};
        let dim = |value| Dimension { value: Some(value), ..Default::default() };
        let shape = pb::TensorShapeProto {
            dim: vec![dim(Value::DimParam("N".to_owned())), dim(Value::DimValue(width as i64))],
        };
        let tensor = pb::type_proto::Tensor { elem_type: data as i32, shape: Some(shape) };
        let value = Some(pb::type_proto::Value::TensorType(tensor));
        pb::ValueInfoProto {
            name: name.to_owned(),
            r#type: Some(pb::TypeProto { value, ..Default::default() }),
            ..Default::default()
        }
    };
    let model = pb::ModelProto {
        ir_version: IR_VERSION,
        producer_name: "presume".to_owned(),
        opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: OPSET }],
        graph: Some(pb::GraphProto {
            name: "presume".to_owned(),
            node: graph.nodes,
            initializer: graph.initializers,
            input: vec![value(INPUT, pb::tensor_proto::DataType::Float, linear.basis.width())],
            output: vec![value(OUTPUT, pb::tensor_proto::DataType::Double, 1)],
            ..Default::default()
        }),
        ..Default::default()
    };
    Ok(model.encode_to_vec())
}

#[derive(Default)]
struct Graph {
    nodes: Vec<pb::NodeProto>,
    initializers: Vec<pb::TensorProto>,
}

impl Graph {
    /// Everything up to `intercept + weights · columns`, negated for a sigmoid; returns the name of
    /// its output.
    fn line(&mut self, linear: &Linear<'_>, folded: &Folded) -> String {
        let columns = linear.basis.columns();
        let count = columns.len() as i64;
        let of = |f: fn(&super::basis::Column) -> f32| columns.iter().map(f).collect::<Vec<f32>>();
        self.tensor(
            "inputs",
            &[count],
            Data::I64(columns.iter().map(|c| c.input as i64).collect()),
        );
        self.tensor("low", &[1, count], Data::F32(of(|c| c.low)));
        self.tensor("high", &[1, count], Data::F32(of(|c| c.high)));
        self.tensor("missing", &[1, count], Data::F32(of(|c| c.missing)));
        // A sigmoid wants −z.
        let sign = if linear.head == Head::Sigmoid { -1.0 } else { 1.0 };
        let scaled = folded.weights().iter().map(|weight| sign * weight).collect();
        self.tensor("weights", &[count, 1], Data::F64(scaled));
        self.tensor("intercept", &[1, 1], Data::F64(vec![sign * folded.intercept()]));

        self.node("Gather", &[INPUT, "inputs"], "gathered", vec![int("axis", 1)]);
        self.node("Max", &["gathered", "low"], "above_low", vec![]);
        self.node("Min", &["above_low", "high"], "clamped", vec![]);
        self.node("IsNaN", &["gathered"], "is_missing", vec![]);
        self.node("Where", &["is_missing", "missing", "clamped"], "imputed", vec![]);
        let double = pb::tensor_proto::DataType::Double as i64;
        self.node("Cast", &["imputed"], "columns", vec![int("to", double)]);
        self.node("MatMul", &["columns", "weights"], "weighted", vec![]);
        self.node("Add", &["weighted", "intercept"], "line", vec![]);
        "line".to_owned()
    }

    /// 1 / (1 + exp(`negated`)).
    fn sigmoid(&mut self, negated: &str) {
        self.tensor("one", &[1, 1], Data::F64(vec![1.0]));
        self.node("Exp", &[negated], "odds_against", vec![]);
        self.node("Add", &["odds_against", "one"], "one_plus_odds", vec![]);
        self.node("Reciprocal", &["one_plus_odds"], OUTPUT, vec![]);
    }

    fn node(&mut self, op: &str, from: &[&str], to: &str, attribute: Vec<pb::AttributeProto>) {
        self.nodes.push(pb::NodeProto {
            op_type: op.to_owned(),
            name: to.to_owned(),
            input: from.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![to.to_owned()],
            attribute,
            ..Default::default()
        });
    }

    fn tensor(&mut self, name: &str, dims: &[i64], data: Data) {
        let mut tensor =
            pb::TensorProto { name: name.to_owned(), dims: dims.to_vec(), ..Default::default() };
        match data {
            Data::I64(values) => {
                tensor.data_type = pb::tensor_proto::DataType::Int64 as i32;
                tensor.int64_data = values;
            }
            Data::F32(values) => {
                tensor.data_type = pb::tensor_proto::DataType::Float as i32;
                tensor.float_data = values;
            }
            Data::F64(values) => {
                tensor.data_type = pb::tensor_proto::DataType::Double as i32;
                tensor.double_data = values;
            }
        }
        self.initializers.push(tensor);
    }
}

enum Data {
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

fn int(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: pb::attribute_proto::AttributeType::Int as i32,
        i: value,
        ..Default::default()
    }
}
