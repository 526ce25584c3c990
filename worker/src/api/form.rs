//! What a client uploaded: the raw image as the body, or a form with the image as a part.
//!
//! Forms are read as leniently as the clients of the original experiment need: the part needs no
//! type and no file name, and parts that mean nothing here are skipped.

use super::Problem;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::{HeaderMap, Uri, header};
use serde::Deserialize;

/// The most parts of a form; a page needs three.
const MOST_PARTS: usize = 64;
/// Longest value of a text part.
const LONGEST_TEXT: usize = 4096;

/// An upload, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upload {
    /// The image, or where it is.
    pub(super) image: Image,
    /// The `model` part of a form.
    pub(super) model: Option<String>,
}

/// An image, or where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Image {
    /// The bytes of the file.
    File(Bytes),
    /// Its http or https address.
    Address(String),
}

/// Names that the part with the file may have.
const FILE_FIELDS: [&str; 2] = [wire::field::IMAGE, wire::field::INPUT_PHOTO];

/// The fields of a form without files.
#[derive(Debug, Deserialize)]
struct Fields {
    #[serde(rename = "IMAGE_URL")]
    image_url: String,
    model: Option<String>,
}

/// Takes a body apart by its content type.
pub(super) async fn read(headers: &HeaderMap, body: Bytes) -> Result<Upload, Problem> {
    if body.is_empty() {
        return Err(Problem::Malformed("the body is empty: send an image".to_owned()));
    }
    if let Some(boundary) = boundary(headers)? {
        return read_form(body, boundary).await;
    }
    let upload = read_fields(headers, &body);
    Ok(upload.unwrap_or(Upload { image: Image::File(body), model: None }))
}

/// The fields of a URL-encoded form; `None` for anything else, even when it says that it is one:
/// curl says so of every body it is not told better about.
fn read_fields(headers: &HeaderMap, body: &[u8]) -> Option<Upload> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let is_form = kind.starts_with("application/x-www-form-urlencoded");
    let text =
        std::str::from_utf8(body).ok().filter(|text| is_form && text.len() < LONGEST_TEXT)?;
    let query: Uri = format!("/?{text}").parse().ok()?;
    let Query(fields) = Query::<Fields>::try_from_uri(&query).ok()?;
    let model = fields.model.filter(|model| !model.is_empty());
    Some(Upload { image: Image::Address(fields.image_url), model })
}

/// The boundary of a form, `None` for any other type.
fn boundary(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_form = |kind: &str| kind.trim_start().to_ascii_lowercase().starts_with("multipart/");
    match kind {
        Some(kind) if is_form(kind) => {
            multer::parse_boundary(kind).map(Some).map_err(|error| malformed(&error))
        }
        Some(_) | None => Ok(None),
    }
}

async fn read_form(body: Bytes, boundary: String) -> Result<Upload, Problem> {
    let mut form = multer::Multipart::new(Body::from(body).into_data_stream(), boundary);
    let mut image = None;
    let mut model = None;
    let mut address = None;
    let mut parts = 0;
    while let Some(field) = form.next_field().await.map_err(|error| malformed(&error))? {
        parts += 1;
        if parts > MOST_PARTS {
            return Err(Problem::Malformed(format!("more than {MOST_PARTS} parts")));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let value = field.bytes().await.map_err(|error| malformed(&error))?;
        if FILE_FIELDS.contains(&name.as_str()) && image.is_none() {
            image = Some(value);
        } else if name == wire::field::IMAGE_URL && !value.is_empty() {
            address = Some(text(&name, &value)?);
        } else if name == wire::field::MODEL && !value.is_empty() {
            model = Some(text(&name, &value)?);
        }
    }
    match (image, address) {
        (Some(file), _) if !file.is_empty() => Ok(Upload { image: Image::File(file), model }),
        (_, Some(address)) => Ok(Upload { image: Image::Address(address), model }),
        (Some(_), None) => Err(Problem::Malformed("the field \"image\" is empty".to_owned())),
        (None, None) => Err(Problem::Malformed("no field \"image\" in the form".to_owned())),
    }
}

fn text(name: &str, value: &[u8]) -> Result<String, Problem> {
    if value.len() > LONGEST_TEXT {
        return Err(Problem::Malformed(format!("the field {name:?} is too long")));
    }
    String::from_utf8(value.to_vec())
        .map_err(|_| Problem::Malformed(format!("the field {name:?} is not UTF-8")))
}

fn malformed(error: &multer::Error) -> Problem {
    Problem::Malformed(format!("the form does not parse: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{Image, Problem, Upload, read};
    use axum::body::Bytes;
    use axum::http::{HeaderMap, HeaderValue, header};
    use proptest::prelude::*;

    fn form_headers() -> HeaderMap {
        let kind = HeaderValue::from_static("multipart/form-data; boundary=xx");
        HeaderMap::from_iter([(header::CONTENT_TYPE, kind)])
    }

    fn read_now(headers: &HeaderMap, body: &[u8]) -> Result<Upload, Problem> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read(headers, Bytes::copy_from_slice(body)))
    }

    const FORM: &str = "--xx\r\nContent-Disposition: form-data; name=\"number_backend_servers\"\r\n\r\n4\r\n\
        --xx\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nmnist\r\n\
        --xx\r\nContent-Disposition: form-data; name=\"image\"; filename=\"image\"\r\n\r\nPIXELS\r\n--xx--\r\n";

    #[test]
    fn the_form_of_the_original_client_is_read() {
        let upload = read_now(&form_headers(), FORM.as_bytes()).unwrap();
        assert_eq!(upload.image, Image::File("PIXELS".into()));
        assert_eq!(upload.model.as_deref(), Some("mnist"));
    }

    #[test]
    fn any_other_body_is_the_image_itself() {
        let image = read_now(&HeaderMap::new(), b"PIXELS").unwrap().image;
        assert_eq!(image, Image::File("PIXELS".into()));
    }

    #[test]
    fn an_address_comes_in_either_kind_of_form() {
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
        let address = Image::Address("http://a.example/b.png".to_owned());
        let upload =
            read_now(&headers, b"IMAGE_URL=http%3A%2F%2Fa.example%2Fb.png&model=mnist").unwrap();
        assert_eq!((upload.image, upload.model.as_deref()), (address.clone(), Some("mnist")));
        let form = FORM
            .replace("\"image\";", "\"IMAGE_URL\";")
            .replace("PIXELS", "http://a.example/b.png");
        assert_eq!(read_now(&form_headers(), form.as_bytes()).unwrap().image, address);
        assert_eq!(read_now(&headers, b"PIXELS").unwrap().image, Image::File("PIXELS".into()));
    }

    #[test]
    fn what_is_missing_is_said() {
        let said = |body: &str| read_now(&form_headers(), body.as_bytes()).unwrap_err().to_string();
        assert!(said("").contains("empty"));
        assert!(said(&FORM.replace("\"image\";", "\"other\";")).contains("no field \"image\""));
        assert!(said(&FORM.replace("PIXELS", "")).contains("\"image\" is empty"));
        assert!(said("PIXELS").contains("does not parse"));
    }

    proptest! {
        #[test]
        fn no_form_panics(garbage in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..300) {
            let mut body = FORM.as_bytes().to_vec();
            let at = at.min(body.len());
            let end = (at + garbage.len()).min(body.len());
            body.splice(at..end, garbage);
            let _outcome = read_now(&form_headers(), &body);
        }
    }
}
