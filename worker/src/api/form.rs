//! What a client uploaded: the raw image as the body, or a form with the image as a part.
//!
//! Parsing is shared with the balancer ([`message`]), so that both read a request the same way. It
//! is as lenient as the clients of the original experiment need: the part needs no type and no file
//! name, and unknown parts are skipped.

use axum::body::Bytes;
use axum::http::HeaderMap;
use message::{ContentType, Model, Submission};

use super::Problem;

/// Number of classes in an answer if the client does not specify it.
const DEFAULT_TOP_K: usize = 5;

/// A parsed upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The image, or its address.
    pub image: Image,
    /// The model that the query or the form asks for.
    pub model: Model<'static>,
    /// Number of classes requested.
    pub top_k: usize,
    /// Whether the answer includes the model's input.
    pub shows_input: bool,
}

/// An image, or its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// The bytes of the file.
    File(Bytes),
    /// Its http or https address.
    Address(String),
}

/// Parses a request: its query, its header fields and its body, which must be decompressed already.
pub fn read(query: Option<&str>, fields: &HeaderMap, body: &Bytes) -> Result<Upload, Problem> {
    let Submission { image, model, top_k, shows_input, servers: _ } =
        Submission::read(query, &ContentType::of(fields)?, body)?;
    let image = match image {
        message::Image::File(file) => Image::File(body.slice_ref(file)),
        message::Image::Address(address) => Image::Address(address.into_owned()),
        message::Image::Missing(why) => return Err(Problem::Malformed(why.to_owned())),
    };
    let top_k = top_k.map_or(DEFAULT_TOP_K, usize::from);
    Ok(Upload { image, model: model.into_owned(), top_k, shows_input })
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use axum::http::{HeaderMap, HeaderValue, header};

    use super::{Image, Problem, Upload, read};

    fn fields(kind: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))])
    }

    fn read_form(body: &str) -> Result<Upload, Problem> {
        read(
            None,
            &fields("multipart/form-data; boundary=xx"),
            &Bytes::copy_from_slice(body.as_bytes()),
        )
    }

    const FORM: &str = "--xx\r\nContent-Disposition: form-data; name=\"number_backend_servers\"\r\n\r\n4\r\n\
        --xx\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nmnist\r\n\
        --xx\r\nContent-Disposition: form-data; name=\"image\"; filename=\"image\"\r\n\r\nPIXELS\r\n--xx--\r\n";

    #[test]
    fn the_form_of_the_original_client_is_read() {
        let upload = read_form(FORM).unwrap();
        assert_eq!(upload.image, Image::File("PIXELS".into()));
        assert_eq!(upload.model.name, "mnist");
    }

    #[test]
    fn any_other_body_is_the_image_itself() {
        for fields in [HeaderMap::new(), fields("application/x-www-form-urlencoded")] {
            let image = read(None, &fields, &Bytes::from_static(b"PIXELS")).unwrap().image;
            assert_eq!(image, Image::File("PIXELS".into()));
        }
    }

    #[test]
    fn an_address_comes_in_either_kind_of_form() {
        let address = Image::Address("http://a.example/b.png".to_owned());
        let body = Bytes::from_static(b"IMAGE_URL=http%3A%2F%2Fa.example%2Fb.png&model=mnist");
        let upload = read(None, &fields("application/x-www-form-urlencoded"), &body).unwrap();
        assert_eq!((upload.image, &*upload.model.name), (address.clone(), "mnist"));
        let form = FORM
            .replace("\"image\";", "\"IMAGE_URL\";")
            .replace("PIXELS", "http://a.example/b.png");
        assert_eq!(read_form(&form).unwrap().image, address);
    }

    #[test]
    fn what_is_missing_is_said() {
        let said = |body: &str| read_form(body).unwrap_err().to_string();
        assert!(said("").contains("does not parse"), "{}", said(""));
        assert!(said(&FORM.replace("\"image\";", "\"other\";")).contains("no field \"image\""));
        assert!(said(&FORM.replace("PIXELS", "")).contains("\"image\" is empty"));
        assert!(said("PIXELS").contains("does not parse"));
        let nothing = read(None, &HeaderMap::new(), &Bytes::new()).unwrap_err();
        assert!(nothing.to_string().contains("the body is empty"));
    }
}
