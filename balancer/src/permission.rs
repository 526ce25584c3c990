//! Who may operate the balancer: look at the admin port, change the fleet, load and unload models.
//!
//! If there is a token, any client that knows it is allowed. If there is none, clients on this
//! machine are, and the rules of [`wire::operator`] reject those that only seem to be there. The
//! same rules apply to both ports. A page of another site is always rejected, token or not.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Version};
use subtle::{Choice, ConstantTimeEq};
use wire::operator::{Caller, HostName, Stranger};

use crate::error::ConfigError;
use crate::files;

/// The challenge for a client without a token.
pub(crate) const CHALLENGE: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"imagefleet operator\"");
/// The challenge for a person using a browser without a token.
pub(crate) const PASSWORD_CHALLENGE: HeaderValue = HeaderValue::from_static(
    "Basic realm=\"imagefleet operator: the token is the password\", charset=\"UTF-8\"",
);
/// Maximum number of tokens that are valid together, so that one can replace another without a gap.
const MAX_TOKENS: usize = 16;
/// A shorter token can be guessed, which is worth a warning.
const SHORT_TOKEN: usize = 16;

/// Why a request is denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It is not from the operator.
    #[error("{0}{hint}", hint = hint(.0))]
    Stranger(#[from] Stranger),
    /// It uses HTTP/1.0, as the requests of many proxies do.
    #[error("load and unload need HTTP/1.1: a request in HTTP/1.0 may have come through a proxy")]
    OldVersion,
    /// Its token is missing or wrong.
    #[error("this needs the operator's token: send Authorization: Bearer TOKEN")]
    Token,
}

/// What the operator can do about it.
fn hint(stranger: &Stranger) -> &'static str {
    match stranger {
        Stranger::Host(_) => "; ask for the address itself, or allow the name with --admin-host",
        Stranger::Proxy(_) => {
            ", which says nothing about who asks; ask directly, or use --admin-token-file"
        }
        Stranger::NoHost | Stranger::Page(_) => "",
    }
}

/// The rules for requests of operators.
#[derive(Debug, Clone, Default)]
pub struct Permission {
    /// Names and addresses of this machine, besides `localhost` and the like.
    pub hosts: Vec<HostName>,
    /// The tokens that a request must show one of.
    pub token: Option<Arc<TokenFile>>,
}

impl Permission {
    /// Whether a request may read from the admin port. `local` is the address it was sent to.
    pub fn check_read(&self, caller: &Caller<'_>, local: Option<IpAddr>) -> Result<(), Denied> {
        caller.check_host(local, &self.hosts)?;
        caller.check_page_reads()?;
        match &self.token {
            Some(token) => token.check(caller.headers),
            None => Ok(caller.check_direct()?),
        }
    }

    /// Whether a request may make changes.
    pub fn check_model_control(
        &self,
        caller: &Caller<'_>,
        version: Version,
        local: Option<IpAddr>,
    ) -> Result<(), Denied> {
        caller.check_host(local, &self.hosts)?;
        caller.check_page()?;
        match &self.token {
            Some(token) => token.check(caller.headers),
            None if version < Version::HTTP_11 => Err(Denied::OldVersion),
            None => Ok(caller.check_direct()?),
        }
    }
}

/// The credentials that identify a caller.
type Tokens = Vec<Box<[u8]>>;

/// Tokens for some purpose, such as the operator's, and the file that contains them, one per line.
pub struct TokenFile {
    path: PathBuf,
    tokens: ArcSwap<Tokens>,
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.fmt(f)
    }
}

impl TokenFile {
    /// Reads the tokens of a file, one per line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let tokens = ArcSwap::from_pointee(parse(path, &files::read_text(path)?)?);
        Ok(Self { path: path.to_owned(), tokens })
    }

    /// The file that the tokens are read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first token, to present it to a balancer.
    pub fn first(&self) -> Option<String> {
        let tokens = self.tokens.load();
        tokens.first().and_then(|token| String::from_utf8(token.to_vec()).ok())
    }

    /// Whether a token is short enough to be guessed.
    pub fn is_weak(&self) -> bool {
        self.tokens.load().iter().any(|token| token.len() < SHORT_TOKEN)
    }

    /// Reads the file again; if that fails, nothing changes. At startup it may be a pipe, whose
    /// writer is waited for; by now it may have none.
    pub fn reload(&self) -> Result<(), ConfigError> {
        let bytes = files::read_regular(&self.path)?;
        self.tokens.store(Arc::new(parse(&self.path, &String::from_utf8_lossy(&bytes))?));
        Ok(())
    }

    /// Whether a request names one of the tokens. How long this takes reveals nothing about them.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let mut fields = headers.get_all(AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else {
            return Err(Denied::Token);
        };
        let password = password(field.as_bytes());
        let given = bearer(field.as_bytes()).or(password.as_deref()).ok_or(Denied::Token)?;
        let tokens = self.tokens.load();
        let none = Choice::from(0);
        let is_known = tokens.iter().fold(none, |known, token| known | token.ct_eq(given));
        if is_known.into() { Ok(()) } else { Err(Denied::Token) }
    }
}

/// The password in `Basic USER:PASSWORD`, as browsers send it when a person has entered the token.
fn password(field: &[u8]) -> Option<Vec<u8>> {
    let (scheme, encoded) = field.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut both = BASE64_STANDARD.decode(encoded.trim_ascii()).ok()?;
    let colon = both.iter().position(|byte| *byte == b':')?;
    Some(both.split_off(colon + 1))
}

/// The token in `Bearer TOKEN`.
fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = field.split_at_checked(6)?;
    let is_separated = token.first() == Some(&b' ');
    (is_separated && scheme.eq_ignore_ascii_case(b"bearer")).then(|| token.trim_ascii())
}

fn parse(path: &Path, text: &str) -> Result<Tokens, ConfigError> {
    let wrong = |message: &str| ConfigError::File {
        path: path.to_owned(),
        message: format!("{message}; make one with: openssl rand -hex 32"),
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let tokens: Tokens = lines.map(|line| line.as_bytes().into()).collect();
    if tokens.is_empty() {
        return Err(wrong("there is no token in the file"));
    }
    if tokens.len() > MAX_TOKENS {
        return Err(wrong("there are more than 16 tokens in the file"));
    }
    if tokens.iter().any(|token| !token.iter().all(u8::is_ascii_graphic)) {
        return Err(wrong("a token consists of letters, digits and signs without spaces"));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http::Uri;
    use http::header::{HOST, HeaderName, ORIGIN};

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn with_token(text: &str) -> (tempfile::NamedTempFile, Permission) {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        let token = TokenFile::load(file.path()).expect("tokens");
        (file, Permission { hosts: Vec::new(), token: Some(Arc::new(token)) })
    }

    fn fields(more: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert(HOST, HeaderValue::from_static("127.0.0.1:9900"));
        for (name, value) in more {
            fields.append(name, HeaderValue::from_static(value));
        }
        fields
    }

    fn model_control(permission: &Permission, headers: &HeaderMap) -> Result<(), Denied> {
        let caller = Caller { headers, uri: &Uri::from_static("/fleet/a/drain") };
        permission.check_model_control(&caller, Version::HTTP_11, None)
    }

    #[test]
    fn without_a_token_a_direct_request_of_this_machine_may_everything() {
        let permission = Permission::default();
        assert_eq!(model_control(&permission, &fields(&[])), Ok(()));
        let via = fields(&[(http::header::VIA, "1.1 other")]);
        assert!(matches!(
            model_control(&permission, &via),
            Err(Denied::Stranger(Stranger::Proxy(_)))
        ));
        let caller = Caller { headers: &via, uri: &Uri::from_static("/metrics") };
        assert!(permission.check_read(&caller, None).is_err());
        let headers = fields(&[]);
        let caller = Caller { headers: &headers, uri: &Uri::from_static("/metrics") };
        let old = permission.check_model_control(&caller, Version::HTTP_10, None);
        assert_eq!(old, Err(Denied::OldVersion), "nginx speaks it to its servers");
        assert_eq!(permission.check_read(&caller, None), Ok(()));
    }

    #[test]
    fn where_there_is_a_token_only_those_who_know_it_may_anything() {
        let (_file, permission) = with_token(&format!("{TOKEN}\n"));
        for right in [
            "Bearer 0123456789abcdef0123456789abcdef",
            "bearer 0123456789abcdef0123456789abcdef",
            "BEARER   0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(
                model_control(&permission, &fields(&[(AUTHORIZATION, right)])),
                Ok(()),
                "{right}"
            );
        }
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcdef0123456789abcde",
            "Bearer 0123456789abcdef0123456789abcdef0",
            "Bearer 0123456789ABCDEF0123456789ABCDEF",
            "Bearer0123456789abcdef0123456789abcdef",
            "Basic 0123456789abcdef0123456789abcdef",
            "0123456789abcdef0123456789abcdef",
        ] {
            let denied = model_control(&permission, &fields(&[(AUTHORIZATION, wrong)]));
            assert_eq!(denied, Err(Denied::Token), "{wrong}");
        }
        assert_eq!(model_control(&permission, &fields(&[])), Err(Denied::Token));
        let right = "Bearer 0123456789abcdef0123456789abcdef";
        let twice = fields(&[(AUTHORIZATION, right), (AUTHORIZATION, right)]);
        assert_eq!(model_control(&permission, &twice), Err(Denied::Token));
    }

    #[test]
    fn a_token_opens_the_way_through_a_proxy_but_not_for_a_page() {
        let (_file, permission) = with_token(TOKEN);
        let right = (AUTHORIZATION, "Bearer 0123456789abcdef0123456789abcdef");
        let via = (http::header::VIA, "1.1 other");
        assert_eq!(model_control(&permission, &fields(&[right.clone(), via])), Ok(()));
        let page = (ORIGIN, "https://evil.example");
        let denied = model_control(&permission, &fields(&[right, page]));
        assert!(matches!(denied, Err(Denied::Stranger(Stranger::Page(_)))));
    }

    #[test]
    fn tokens_follow_their_file_and_several_may_be_valid() {
        let (mut file, permission) = with_token("first-token-of-the-operator\n");
        let with = |token| model_control(&permission, &fields(&[(AUTHORIZATION, token)]));
        assert_eq!(with("Bearer first-token-of-the-operator"), Ok(()));
        file.write_all(b"\nsecond-token-of-the-operator\n").expect("written");
        assert!(with("Bearer second-token-of-the-operator").is_err());
        let token = permission.token.as_ref().expect("a token");
        token.reload().expect("read");
        assert_eq!(with("Bearer first-token-of-the-operator"), Ok(()));
        assert_eq!(with("Bearer second-token-of-the-operator"), Ok(()));
        file.as_file().set_len(0).expect("emptied");
        assert!(token.reload().is_err());
        assert_eq!(with("Bearer second-token-of-the-operator"), Ok(()), "the old ones stay");
        assert!(!format!("{permission:?}").contains("first-token"), "tokens are not shown");
    }

    #[test]
    fn a_file_without_a_proper_token_is_refused_with_the_way_to_one() {
        for text in ["", "\n \n", "two words", "t\u{e9}l\u{e9}", "nul\0byte", &"x\n".repeat(17)] {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(text.as_bytes()).expect("written");
            let error = TokenFile::load(file.path()).expect_err(text).to_string();
            assert!(error.contains("openssl rand"), "{error}");
        }
        let error = TokenFile::load(Path::new("/nowhere/token")).expect_err("none").to_string();
        assert!(error.contains("cannot read /nowhere/token"), "{error}");
        let (_file, weak) = with_token("short");
        assert!(weak.token.expect("a token").is_weak());
    }
}
