//! The form of the original experiment, byte for byte as its `requests` client sends it: the text
//! part `number_backend_servers` first, then `image` with `filename="image"` and no media type.
//!
//! The boundary depends on the content only, so that a workload is the same in every run.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;

/// A form, ready to send.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    /// The body with its boundaries.
    pub(crate) body: Bytes,
    /// `multipart/form-data` with the boundary.
    pub(crate) content_type: HeaderValue,
}

/// Wraps `picture` as the field `name`; `servers` is left out when the service is to use all its
/// endpoints.
pub(crate) fn form(servers: Option<u32>, name: &str, picture: &[u8]) -> Form {
    let boundary = boundary_outside(picture);
    let mut body = BytesMut::with_capacity(picture.len() + 400);
    if let Some(servers) = servers {
        let field = wire::field::NUMBER_BACKEND_SERVERS;
        body.put_slice(
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{servers}\r\n"
            )
            .as_bytes(),
        );
    }
    body.put_slice(
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; \
             filename=\"{name}\"\r\n\r\n"
        )
        .as_bytes(),
    );
    body.put_slice(picture);
    body.put_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let content_type = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"))
        .expect("hexadecimal digits are legal in a header");
    Form { body: body.freeze(), content_type }
}

/// 32 hexadecimal digits that do not occur in `picture`.
fn boundary_outside(picture: &[u8]) -> String {
    let mut state = picture.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    loop {
        let next = state.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let boundary = format!("{state:016x}{next:016x}");
        if !contains(picture, boundary.as_bytes()) {
            return boundary;
        }
        state = next;
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::{boundary_outside, form};

    #[test]
    fn the_form_is_the_one_of_the_original_client() {
        let form = form(Some(4), "image", b"PIXELS");
        let content_type = form.content_type.to_str().unwrap();
        let boundary = content_type.strip_prefix("multipart/form-data; boundary=").unwrap();
        let expected = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"number_backend_servers\"\r\n\
             \r\n4\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"image\"; \
             filename=\"image\"\r\n\r\nPIXELS\r\n--{boundary}--\r\n"
        );
        assert_eq!(form.body, expected.as_bytes());
        assert_eq!(boundary.len(), 32);
    }

    #[test]
    fn a_boundary_inside_the_picture_is_not_used() {
        let mut picture = b"some picture".to_vec();
        for _ in 0..3 {
            let boundary = boundary_outside(&picture);
            assert!(!picture.windows(32).any(|window| window == boundary.as_bytes()));
            picture.extend_from_slice(boundary.as_bytes());
        }
    }
}
