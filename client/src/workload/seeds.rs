//! The loads that the five projects put on their services, by name.
//!
//! Each is what that project's own script or Locust file sends, as a browser or Locust would put it
//! on the wire. Where the right answer is known, it is checked.

use bytes::Bytes;
use clap::ValueEnum;
use http::{HeaderValue, Method};

use super::iris::Form;
use super::{Item, Reading, generated, multipart};

/// The load test of one of the five projects, rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Seed {
    /// A photo in the form of the GENI experiment, to `/submit`.
    #[value(name = "seed-geni")]
    Geni,
    /// A digit of 28 pixels as the body, to `/mnist`.
    #[value(name = "seed-mnist")]
    Mnist,
    /// A digit in the page's form, to `/post`.
    #[value(name = "seed-digit")]
    Digit,
    /// Flowers in TensorFlow Serving's JSON.
    #[value(name = "seed-iris")]
    Iris,
    /// The address of a photo in the page's form, to `/home`; workers fetch it.
    #[value(name = "seed-web")]
    Web,
}

/// The photo that the project with `/home` suggests for trying it out.
pub const CAT: &str = "https://tensorflow.org/images/blogs/serving/cat.jpg";

/// The label of the digit.
const DIGIT: &str = "7";

impl Seed {
    /// Where the requests go.
    pub fn route(self) -> String {
        match self {
            Self::Geni => wire::path::SUBMIT.to_owned(),
            Self::Mnist => wire::path::MNIST.to_owned(),
            Self::Digit => "/post".to_owned(),
            Self::Iris => Form::TfServing.route(),
            Self::Web => wire::path::HOME.to_owned(),
        }
    }

    /// How its answers are read.
    pub fn reading(self) -> Reading {
        match self {
            Self::Geni => Reading::Label,
            Self::Mnist => Reading::Message,
            Self::Digit => Reading::Page,
            Self::Iris => Reading::TfSpecies,
            Self::Web => Reading::Ignore,
        }
    }

    /// The requests; `servers` and `image_url` are used where the project has such fields.
    pub fn items(self, servers: Option<u32>, image_url: &str) -> anyhow::Result<Vec<Item>> {
        let item = match self {
            Self::Iris => return Form::TfServing.items(),
            Self::Geni => {
                let picture = generated::picture(128)?;
                Item::picture(&picture.name, &picture.bytes, servers)
            }
            Self::Mnist => {
                let digit = generated::digit()?.bytes;
                let png = HeaderValue::from_static("image/png");
                let item = Item::new("digit", Method::POST, digit, Some(png));
                Item { expected: Some(DIGIT.to_owned()), ..item }
            }
            Self::Digit => {
                let digit = generated::digit()?.bytes;
                let form = multipart::form(None, wire::field::INPUT_PHOTO, &digit);
                let item = Item::new("digit", Method::POST, form.body, Some(form.content_type));
                Item { expected: Some(DIGIT.to_owned()), ..item }
            }
            Self::Web => {
                let body = format!("{}={}", wire::field::IMAGE_URL, encoded(image_url));
                let form = HeaderValue::from_static("application/x-www-form-urlencoded");
                Item::new("address", Method::POST, Bytes::from(body), Some(form))
            }
        };
        Ok(vec![item])
    }
}

/// Encodes a value of a form as browsers do.
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' => {
                encoded.push(char::from(byte));
            }
            b' ' => encoded.push('+'),
            _ => write!(encoded, "%{byte:02X}").expect("a string takes any text"),
        }
    }
    encoded
}

/// The digit in `{"message": "Image received. Size=28x28. label=7"}`.
pub(crate) fn digit_of_message(body: &[u8]) -> Option<String> {
    let answer: wire::MnistAnswer = serde_json::from_slice(body).ok()?;
    let (_, label) = answer.message.rsplit_once("label=")?;
    (!label.is_empty()).then(|| label.to_owned())
}

/// The digit on a page that says `… digit detection: [7]`.
pub(crate) fn digit_of_page(body: &[u8]) -> Option<String> {
    let page = std::str::from_utf8(body).ok()?;
    let (_, rest) = page.split_once("digit detection: [")?;
    let (digit, _) = rest.split_once(']')?;
    Some(digit.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::{CAT, Seed, digit_of_message, digit_of_page};
    use crate::workload::Reading;

    #[test]
    fn every_load_has_requests_and_known_answers_are_checked() {
        for seed in Seed::value_variants() {
            let items = seed.items(Some(2), CAT).unwrap();
            let is_checked = items.iter().all(|item| item.expected.is_some());
            let has_answer = !matches!(seed.reading(), Reading::Ignore | Reading::Label);
            assert_eq!(is_checked, has_answer, "{seed:?}");
            assert!(seed.route().starts_with('/') && !items[0].body.is_empty(), "{seed:?}");
        }
        let form = &Seed::Web.items(None, "http://host/a b?c=d&e").unwrap()[0];
        assert_eq!(form.body, "IMAGE_URL=http%3A%2F%2Fhost%2Fa+b%3Fc%3Dd%26e");
    }

    #[test]
    fn digits_are_read_where_the_projects_put_them() {
        let message = br#"{"message": "Image received. Size=28x28. label=7"}"#;
        assert_eq!(digit_of_message(message).as_deref(), Some("7"));
        assert_eq!(digit_of_message(b"{\"message\": \"Image received.\"}"), None);
        let page = b"<p>The result of handwritten digit detection: [7]</p>";
        assert_eq!(digit_of_page(page).as_deref(), Some("7"));
        assert_eq!(digit_of_page(b"<p>no digit</p>"), None);
    }
}
