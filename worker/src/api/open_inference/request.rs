//! Parses the JSON of a request: only what matters here is kept, and every list is bounded.
//!
//! A generic JSON tree takes up to a hundred times the memory of its text. The elements of a tensor
//! stay text until its shape determines their number.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// An inference request.
#[derive(Debug, Deserialize)]
pub(super) struct Request<'a> {
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) parameters: Parameters,
    #[serde(borrow)]
    pub(super) inputs: Many<Input<'a>, 4096>,
    #[serde(default)]
    pub(super) outputs: Option<Many<Wanted, 64>>,
}

/// One input tensor.
#[derive(Debug, Deserialize)]
pub(super) struct Input<'a> {
    pub(super) name: String,
    pub(super) shape: Many<u64, 16>,
    pub(super) datatype: String,
    #[serde(default)]
    pub(super) parameters: Parameters,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
}

/// One output that the client asks for.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    pub(super) name: String,
    #[serde(default)]
    pub(super) parameters: Parameters,
}

/// A list of at most `MOST` elements.
#[derive(Debug)]
pub(super) struct Many<T, const MOST: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Many<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ManyVisitor(PhantomData))
    }
}

struct ManyVisitor<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for ManyVisitor<T, MOST> {
    type Value = Many<T, MOST>;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "a list of at most {MOST} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            if all.len() == MOST {
                return Err(A::Error::custom(format!("a list of more than {MOST} elements")));
            }
            all.push(item);
        }
        Ok(Many(all))
    }
}

/// The parameters that this server understands. In the protocol, each is a string, a number or a
/// boolean, and nothing else.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) binary_data_size: Option<u64>,
    pub(super) binary_data: Option<bool>,
    pub(super) binary_data_output: Option<bool>,
    /// Number of best classes to label, instead of all values.
    pub(super) classification: Option<u64>,
    /// Whether a region of shared memory is named.
    pub(super) shared_memory: bool,
    /// Whether a configuration or files are given for a model to be loaded.
    pub(super) model: bool,
}

/// A parameter by its name.
enum Key {
    BinaryDataSize,
    BinaryData,
    BinaryDataOutput,
    Classification,
    SharedMemory,
    Model,
    Other,
}

/// The value of a parameter; the contents of text are dropped.
enum Scalar {
    Whole(u64),
    Bool(bool),
    Other,
}

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ParametersVisitor)
    }
}

struct ParametersVisitor;

impl<'de> Visitor<'de> for ParametersVisitor {
    type Value = Parameters;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("an object of parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Parameters, A::Error> {
        let mut all = Parameters::default();
        while let Some(key) = members.next_key_seed(KeySeed)? {
            let value: Scalar = members.next_value()?;
            match (key, value) {
                (Key::BinaryDataSize, Scalar::Whole(size)) => all.binary_data_size = Some(size),
                (Key::Classification, Scalar::Whole(count)) => all.classification = Some(count),
                (Key::BinaryData, Scalar::Bool(flag)) => all.binary_data = Some(flag),
                (Key::BinaryDataOutput, Scalar::Bool(flag)) => all.binary_data_output = Some(flag),
                (Key::BinaryDataSize | Key::Classification, _) => {
                    return Err(A::Error::custom("this parameter must be a whole number"));
                }
                (Key::BinaryData | Key::BinaryDataOutput, _) => {
                    return Err(A::Error::custom("this parameter must be true or false"));
                }
                (Key::SharedMemory, _) => all.shared_memory = true,
                (Key::Model, _) => all.model = true,
                (Key::Other, _) => {}
            }
        }
        Ok(all)
    }
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("the name of a parameter")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
        Ok(match name {
            "binary_data_size" => Key::BinaryDataSize,
            "binary_data" => Key::BinaryData,
            "binary_data_output" => Key::BinaryDataOutput,
            "classification" => Key::Classification,
            "config" => Key::Model,
            _ if name.starts_with("file:") => Key::Model,
            _ if name.starts_with("shared_memory_") => Key::SharedMemory,
            _ => Key::Other,
        })
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("a string, a number or a boolean for a parameter")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Whole(value))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::{Parameters, Request};

    fn parameters(text: &str) -> Result<Parameters, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn parameters_are_scalars_and_most_are_skipped() {
        let text = r#"{"binary_data_size": 8, "sequence_id": "a", "x": -1, "y": 0.5, "binary_data": true}"#;
        let wanted = Parameters {
            binary_data_size: Some(8),
            binary_data: Some(true),
            ..Parameters::default()
        };
        assert_eq!(parameters(text), Ok(wanted));
        for (text, said) in [
            (r#"{"x": {}}"#, "a string, a number or a boolean"),
            (r#"{"x": [1]}"#, "a string, a number or a boolean"),
            (r#"{"x": null}"#, "a string, a number or a boolean"),
            (r#"{"binary_data_size": -1}"#, "a whole number"),
            (r#"{"binary_data": 1}"#, "true or false"),
            ("[]", "an object of parameters"),
        ] {
            let error = parameters(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(parameters(r#"{"file:1/model": "x"}"#).unwrap().model);
    }

    #[test]
    fn nested_parameters_cost_nothing() {
        let nested = format!("{{\"x\": {}1{}}}", "[".repeat(400_000), "]".repeat(400_000));
        let many = format!("{{\"x\": [{}1]}}", "{\"a\":1},".repeat(100_000));
        for text in [nested, many] {
            let measured = allocation_counter::measure(|| drop(parameters(&text).unwrap_err()));
            assert!(measured.bytes_max < 4096, "{measured:?}");
        }
    }

    #[test]
    fn lists_are_bounded() {
        let shape = "1,".repeat(16);
        let input = format!(r#"{{"name": "a", "shape": [{shape}1], "datatype": "FP32"}}"#);
        let error = serde_json::from_str::<Request<'_>>(&format!(r#"{{"inputs": [{input}]}}"#))
            .unwrap_err();
        assert!(error.to_string().contains("more than 16 elements"), "{error}");
        let outputs = r#"{"name": "a"},"#.repeat(64);
        let text = format!(r#"{{"inputs": [], "outputs": [{outputs}{{"name": "a"}}]}}"#);
        let error = serde_json::from_str::<Request<'_>>(&text).unwrap_err();
        assert!(error.to_string().contains("more than 64 elements"), "{error}");
    }
}
