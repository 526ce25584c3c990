//! The 150 flowers of Fisher's iris data (1936) as requests, with the right species.
//!
//! With small bodies and a model that costs next to nothing, what is left of a round trip is the
//! service itself. One flower per request, in TensorFlow Serving's row format or as the tensors of
//! the Open Inference Protocol; the species in the answers are checked along the way.

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Method};
use serde::Deserialize;
use serde_json::json;

use super::{Item, Reading};

/// Name of the model in both protocols.
const MODEL: &str = "iris_model";
const DATA: &str = include_str!("iris.csv");

/// How a flower is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// TensorFlow Serving: `{"instances": [{…}]}`.
    TfServing,
    /// Open Inference Protocol: one tensor per column.
    OpenInference,
}

#[derive(Debug, Deserialize)]
struct Flower {
    sepal_length: f64,
    sepal_width: f64,
    petal_length: f64,
    petal_width: f64,
    species: String,
}

impl Form {
    /// The route that accepts this form.
    pub fn route(self) -> String {
        match self {
            Self::TfServing => format!("/v1/models/{MODEL}:predict"),
            Self::OpenInference => format!("/v2/models/{MODEL}/infer"),
        }
    }

    /// How its answers are read.
    pub fn reading(self) -> Reading {
        match self {
            Self::TfServing => Reading::TfSpecies,
            Self::OpenInference => Reading::OpenInferenceSpecies,
        }
    }

    /// One request per flower.
    pub fn items(self) -> anyhow::Result<Vec<Item>> {
        let mut reader = csv::Reader::from_reader(DATA.as_bytes());
        let flowers = reader.deserialize::<Flower>().enumerate();
        flowers
            .map(|(number, flower)| {
                let flower = flower.context("the built-in iris data")?;
                let name = format!("iris-{}", number + 1);
                let body = Bytes::from(self.body(&flower).to_string());
                let json = HeaderValue::from_static("application/json");
                let item = Item::new(&name, Method::POST, body, Some(json));
                Ok(Item { expected: Some(flower.species), ..item })
            })
            .collect()
    }

    fn body(self, flower: &Flower) -> serde_json::Value {
        let columns = [
            ("sepal_length", flower.sepal_length),
            ("sepal_width", flower.sepal_width),
            ("petal_length", flower.petal_length),
            ("petal_width", flower.petal_width),
        ];
        match self {
            Self::TfServing => {
                let row: serde_json::Map<_, _> =
                    columns.iter().map(|&(name, value)| (name.to_owned(), json!(value))).collect();
                json!({ "instances": [row] })
            }
            Self::OpenInference => {
                let tensor = |&(name, value): &(&str, f64)| json!({ "name": name, "datatype": "FP64", "shape": [1, 1], "data": [value] });
                json!({ "inputs": columns.iter().map(tensor).collect::<Vec<_>>() })
            }
        }
    }
}

/// The species that an answer of TensorFlow Serving's protocol names first.
pub(crate) fn tf_species(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        predictions: [Prediction; 1],
    }
    #[derive(Deserialize)]
    struct Prediction {
        predicted_species: [String; 1],
    }
    let Answer { predictions: [Prediction { predicted_species: [species] }] } =
        serde_json::from_slice(body).ok()?;
    Some(species)
}

/// The species that an answer of the Open Inference Protocol names first.
pub(crate) fn open_inference_species(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        outputs: Vec<Output<'a>>,
    }
    #[derive(Deserialize)]
    struct Output<'a> {
        name: &'a str,
        data: Vec<serde_json::Value>,
    }
    let answer: Answer<'_> = serde_json::from_slice(body).ok()?;
    let output = answer.outputs.iter().find(|output| output.name == "predicted_species")?;
    Some(output.data.first()?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Form, open_inference_species, tf_species};

    #[test]
    fn every_flower_is_a_request_with_its_species() {
        for form in [Form::TfServing, Form::OpenInference] {
            let items = form.items().unwrap();
            assert_eq!(items.len(), 150);
            let setosas = items.iter().filter(|i| i.expected.as_deref() == Some("setosa"));
            assert_eq!(setosas.count(), 50);
        }
        let first = &Form::TfServing.items().unwrap()[0];
        let body: serde_json::Value = serde_json::from_slice(&first.body).unwrap();
        assert_eq!(body["instances"][0]["petal_width"], 0.2);
    }

    #[test]
    fn both_protocols_name_the_species() {
        let tf = br#"{"predictions": [{"species_probs": [1.0], "predicted_species": ["setosa"]}]}"#;
        assert_eq!(tf_species(tf).as_deref(), Some("setosa"));
        let oip = br#"{"model_name":"iris_model","outputs":[{"data":[0.9],"datatype":"FP32",
            "name":"species_probs","shape":[1,1]},{"data":["virginica"],"datatype":"BYTES",
            "name":"predicted_species","shape":[1,1]}]}"#;
        assert_eq!(open_inference_species(oip).as_deref(), Some("virginica"));
        assert_eq!(tf_species(b"{\"error\":\"no\"}"), None);
        assert_eq!(open_inference_species(b"{}"), None);
    }
}
