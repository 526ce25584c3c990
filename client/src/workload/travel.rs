//! A workload for another program: every request byte for byte as it is sent.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

use super::{Head, Item, Reading, Statuses, Workload};
use crate::error::Error;

/// A workload as text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Packed {
    requests: Vec<PackedRequest>,
    reading: Reading,
    statuses: Option<Statuses>,
}

/// One request of it. Bodies and field values may be arbitrary bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PackedRequest {
    name: String,
    method: String,
    uri: String,
    absolute: String,
    fields: Vec<(String, String)>,
    body: String,
    expected: Option<String>,
}

impl From<&Workload> for Packed {
    fn from(workload: &Workload) -> Self {
        let pack = |(item, head): (&Item, &Head)| PackedRequest {
            name: item.name.clone(),
            method: item.method.to_string(),
            uri: head.uri.to_string(),
            absolute: head.absolute.to_string(),
            fields: (head.fields.iter())
                .map(|(name, value)| (name.to_string(), BASE64_STANDARD.encode(value.as_bytes())))
                .collect(),
            body: BASE64_STANDARD.encode(&item.body),
            expected: item.expected.clone(),
        };
        Self {
            requests: workload.items.iter().zip(&workload.heads).map(pack).collect(),
            reading: workload.reading,
            statuses: workload.statuses.clone(),
        }
    }
}

impl Packed {
    /// Rebuilds the workload at the agent.
    pub(crate) fn unpack(self) -> Result<Workload, Error> {
        let requests = self.requests.into_iter().map(PackedRequest::unpack);
        let (items, heads): (Vec<Item>, Vec<Head>) =
            requests.collect::<Option<Vec<_>>>().ok_or_else(damaged)?.into_iter().unzip();
        if items.is_empty() {
            return Err(damaged());
        }
        Ok(Workload { items, heads, reading: self.reading, statuses: self.statuses })
    }
}

impl PackedRequest {
    fn unpack(self) -> Option<(Item, Head)> {
        let bytes = |text: &str| BASE64_STANDARD.decode(text).ok();
        let mut fields = HeaderMap::new();
        for (name, value) in &self.fields {
            let value = HeaderValue::from_bytes(&bytes(value)?).ok()?;
            fields.append(name.parse::<HeaderName>().ok()?, value);
        }
        let method = Method::from_bytes(self.method.as_bytes()).ok()?;
        let item = Item {
            expected: self.expected,
            ..Item::new(&self.name, method, Bytes::from(bytes(&self.body)?), None)
        };
        let (uri, absolute) = (self.uri.parse().ok()?, self.absolute.parse().ok()?);
        Some((item, Head { uri, absolute, fields }))
    }
}

fn damaged() -> Error {
    Error::Usage("requests that cannot be sent".to_owned())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::Packed;
    use crate::target::Target;
    use crate::workload::{Custom, Item, Reading, Statuses, Workload};

    #[test]
    fn a_workload_arrives_as_it_was_sent() {
        let target: Target = "http://host:81/below".parse().unwrap();
        let body = bytes::Bytes::from_static(&[0, 255, 7]);
        let json = HeaderValue::from_static("application/json");
        let mut item = Item::new("any", Method::PUT, body, Some(json));
        item.expected = Some("cat".to_owned());
        let mut headers = HeaderMap::new();
        headers.append("x-any", HeaderValue::from_bytes(b"\xe4\t1").unwrap());
        headers.append("x-any", HeaderValue::from_static("2"));
        let statuses: Statuses = "200,404".parse().unwrap();
        let custom = Custom { method: None, headers, statuses: Some(statuses) };
        let sent = Workload::try_new(&target, "/a?b=c", vec![item], Reading::Whatever).unwrap();
        let sent = sent.customised(&custom).unwrap();
        let text = serde_json::to_string(&Packed::from(&sent)).unwrap();
        let come = serde_json::from_str::<Packed>(&text).unwrap().unpack().unwrap();
        let of = |workload: &Workload| format!("{:?} {:?}", workload.heads, workload.statuses);
        assert_eq!(of(&sent), of(&come));
        let item = |workload: &Workload| {
            let it = &workload.items[0];
            (it.name.clone(), it.method.clone(), it.body.clone(), it.expected.clone())
        };
        assert_eq!(item(&sent), item(&come));
        assert_eq!(come.reading, Reading::Whatever);
        for damage in ["\"requests\":[]", "\"body\":\"!\"", "\"uri\":\"a b\""] {
            let (name, _) = damage.split_once(':').unwrap();
            let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let other: serde_json::Value = serde_json::from_str(&format!("{{{damage}}}")).unwrap();
            let name = name.trim_matches('"');
            if name == "requests" {
                value[name] = other[name].clone();
            } else {
                value["requests"][0][name] = other[name].clone();
            }
            let packed: Packed = serde_json::from_value(value).unwrap();
            assert!(packed.unpack().is_err(), "{damage}");
        }
    }
}
